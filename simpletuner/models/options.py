"""PROVISIONAL by the architect until the options helper writes the whole file."""
from __future__ import annotations
from typing import Annotated
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.families import FAMILIES
from simpletuner.models.flux.family import FLAVOURS
from simpletuner.models.precision import PRECISIONS
from simpletuner.schema import Section, TextList


class Model(Section):
    """Model."""
    model_family: Annotated[str, FAMILIES] = "flux"
    model_flavour: Annotated[str, FLAVOURS] | None = None
    model_type: str = "lora"
    pretrained_model_name_or_path: str | None = None
    pretrained_transformer_model_name_or_path: str | None = None
    pretrained_transformer_subfolder: str = "transformer"
    pretrained_vae_model_name_or_path: str | None = None
    revision: str | None = None
    variant: str | None = None


class Precision(Section):
    """Precision."""
    mixed_precision: str = "bf16"
    base_model_precision: Annotated[str, PRECISIONS] = "no_change"
    text_encoder_1_precision: Annotated[str, PRECISIONS] = "no_change"
    text_encoder_2_precision: Annotated[str, PRECISIONS] = "no_change"
    vae_dtype: str = "bf16"


class Adapter(Section):
    """Adapter."""
    lora_rank: int = 16
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    lora_init_type: str = "default"
    flux_lora_target: Annotated[str, PRESETS] = "all"
    peft_lora_target_modules: TextList | None = None


class Memory(Section):
    """Memory."""
    gradient_checkpointing: bool = True
    vae_enable_tiling: bool = False
    vae_enable_slicing: bool = False


class TreadRoute(Section):
    """Route."""
    selection_ratio: float
    start_layer_idx: int
    end_layer_idx: int


class TreadConfig(Section):
    """Tread."""
    routes: tuple[TreadRoute, ...]


class Routing(Section):
    """Routing."""
    tread_config: TreadConfig | None = None
