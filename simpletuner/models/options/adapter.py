"""The adapter that is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from simpletuner.models.adapters.presets import PRESETS
from simpletuner.schema import NoEffect, NotYet, Section, TextList, belongs_to, words

LORA_TYPES = words(
    "LoRA type",
    {"standard": "LoRA: two small matrices beside each trained layer."},
    later={"lycoris": "use standard"},
)
LORA_INITS = words(
    "LoRA start",
    {
        "default": "One matrix starts at random, the other at zero.",
        "gaussian": "The same, with normally distributed numbers scaled by the rank.",
    },
    later={"loftq": "use default", "olora": "use default", "pissa": "use default"},
)
LORA_FORMATS = words(
    "LoRA format",
    {"diffusers": "The names that diffusers uses; ComfyUI and others read them too."},
    later={"comfyui": "use diffusers", "kohya": "use diffusers"},
)
LORA_MODES = words("LoRA mode", {"standard": "Plain LoRA."}, later={"singlora": "use standard"})


def _module_names(value: Any) -> Any:
    """Accept a JSON list inside a string, as configs in use have it."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not a JSON list: {error}") from error
    return value


class Adapter(Section):
    """The adapter that is trained."""

    lora_type: Annotated[str, LORA_TYPES] = "standard"
    """The kind of adapter that is trained."""
    lora_rank: int = Field(default=16, ge=1)
    """The size of the adapter: a higher one learns more detail, needs more memory and overfits sooner."""
    lora_alpha: float | None = Field(default=None, gt=0)
    """How strongly the adapter acts, as alpha divided by rank; equal to lora_rank unless given."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """The share of the adapter that is left out at random in each step, against overfitting."""
    lora_init_type: Annotated[str, LORA_INITS] = "default"
    """What the adapter's weights are before the first step."""
    lora_format: Annotated[str, LORA_FORMATS] = "diffusers"
    """The names of the weights in the saved file."""
    flux_lora_target: Annotated[str, PRESETS] = "all"
    """Which layers of the model get an adapter."""
    peft_lora_target_modules: Annotated[TextList | None, BeforeValidator(_module_names)] = None
    """Names of layers that get an adapter, instead of flux_lora_target: a list, or a string with commas."""
    peft_lora_mode: Annotated[str, LORA_MODES] = "standard"
    """A variant of LoRA with one matrix or two beside each layer."""
    singlora_ramp_up_steps: Annotated[int, belongs_to("peft_lora_mode singlora")] = 0
    """Over how many steps a SingLoRA adapter comes to full strength."""
    slider_lora_target: Annotated[bool, NotYet("use flux_lora_target mmdit")] = False
    """Trains the layers that slider adapters change."""
    use_dora: Annotated[bool, NotYet("leave it out to train a plain LoRA")] = False
    """Trains length and direction of each weight separately (DoRA)."""
    init_lora: Annotated[str | None, NotYet("use resume_from_checkpoint to go on from a run of your own")] = None
    """An adapter file to start from."""
    init_lora_step: Annotated[int | None, belongs_to("init_lora")] = None
    """The step number at which training goes on from an adapter file."""
    init_lora_ema: Annotated[str | None, belongs_to("init_lora")] = None
    """The averaged weights that belong to the adapter file in init_lora."""
    lycoris_config: Annotated[
        Mapping[str, Any] | str | None, NoEffect("it is read only with lora_type lycoris, which is not served yet")
    ] = None
    """Settings of a LyCORIS adapter: an object, or the path of a JSON file."""
    init_lokr_norm: Annotated[float | None, belongs_to("lora_type lycoris")] = None
    """How far a LoKr adapter stands from zero at the start."""
    assistant_lora_path: Annotated[str | None, NotYet("leave it out: it is only of use with schnell")] = None
    """A helping adapter that is on while training and off afterwards."""
    assistant_lora_strength: Annotated[float, belongs_to("assistant_lora_path")] = 1.0
    """How strongly the helping adapter acts in training."""
    assistant_lora_inference_strength: Annotated[float, belongs_to("assistant_lora_path")] = 0.0
    """How strongly the helping adapter acts in validation."""
    disable_assistant_lora: Annotated[bool, NoEffect("no helping adapter is used")] = False
    """Leaves the helping adapter out."""
    fuse_qkv_projections: Annotated[bool, NotYet("leave it out: it changes speed, not results")] = False
    """Computes three layers of attention as one."""
    train_text_encoder: Annotated[bool, NotYet("leave it out: only the transformer is trained")] = False
    """Trains an adapter for the text encoder too."""
    text_encoder_lr: Annotated[float | None, belongs_to("train_text_encoder")] = None
    """The learning rate of the text encoder's own adapter."""
