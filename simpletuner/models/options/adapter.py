"""The adapter that is trained."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from simpletuner.models.adapters.formats import FORMATS
from simpletuner.models.adapters.layers import block_numbers
from simpletuner.models.adapters.presets import EMBEDDERS, PRESETS
from simpletuner.models.adapters.starts import STARTS
from simpletuner.schema import IfChanged, Listed, NotYet, Section, TextList, belongs_to, shown, words

LORA_TYPES = words(
    "LoRA type",
    {
        "standard": "LoRA: two small matrices beside each trained layer.",
        "lycoris": "LoKr, LoHa and other kinds of adapters, as lycoris_config says.",
    },
)
LORA_INITS = STARTS
LORA_FORMATS = FORMATS
DROPOUT_POSITIONS = words(
    "dropout position",
    {
        "input": "What a layer gets is dropped, before the first matrix, as in PEFT and SimpleTuner.",
        "rank": "What lies between the two matrices is dropped, as in sd-scripts.",
    },
)
BLOCK_KINDS = words(
    "kind of blocks",
    {
        "all": "Double and single blocks.",
        "double": "The first blocks, which keep image and text apart.",
        "single": "The later blocks, in which image and text are one sequence.",
    },
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


def _object(value: Any) -> Any:
    """Accept JSON text instead of the object or list itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from error


def _settings(value: Any) -> Any:
    """Accept an object, JSON text of one, or the path of a file."""
    if value is not None and not isinstance(value, str | Mapping):
        raise ValueError(f"must be an object, or the path of a JSON file, got {shown(value)}")
    return _object(value) if isinstance(value, str) and value.strip().startswith("{") else value


def _ranks(value: Any) -> Any:
    """Accept the list of sd-scripts inside a string, with or without brackets."""
    return value.strip().strip("[]") if isinstance(value, str) else value


def _blocks(value: str) -> str:
    block_numbers(value)
    return value


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}, got '{value}'") from error
    return value


def _expressions(value: Mapping[str, Any]) -> Mapping[str, Any]:
    for pattern in value:
        _expression(pattern)
    return value


BlockNumbers = Annotated[str, AfterValidator(_blocks)]
"""Numbers of blocks, such as 0-3,8; or all, or none."""
Rank = Annotated[int, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]


class LayerRule(Section):
    """What holds for the layers whose name contains a pattern."""

    pattern: Annotated[str, AfterValidator(_expression)]
    """A regular expression that is searched in the name of each layer, such as blocks.7.attn."""
    rank: Rank | None = None
    """The rank of these layers; 0 leaves them out."""
    alpha: Above | None = None
    """Their alpha."""
    lr: Above | None = None
    """Their learning rate, instead of learning_rate."""


class Adapter(Section):
    """The adapter that is trained."""

    if_changed: ClassVar[IfChanged] = IfChanged.REFUSED

    lora_type: Annotated[str, LORA_TYPES] = "standard"
    """The kind of adapter that is trained."""
    lora_rank: int = Field(default=16, ge=1)
    """The size of the adapter: a higher one learns more detail, needs more memory and overfits sooner."""
    lora_alpha: Annotated[float | None, IfChanged.TOLD] = Field(default=None, gt=0)
    """How strongly the adapter acts, as alpha divided by rank; equal to lora_rank unless given."""
    lora_dropout: Annotated[float, IfChanged.TOLD] = Field(default=0.0, ge=0, lt=1)
    """The share of the adapter that is left out at random in each step, against overfitting."""
    lora_dropout_position: Annotated[Literal["input", "rank"], DROPOUT_POSITIONS, IfChanged.TOLD] = "input"
    """Where lora_dropout acts."""
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    """The share of the ranks that is left out at random, for each image and layer."""
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    """The share of the layers whose adapter is left out at random in each step."""
    lora_max_norm: float | None = Field(default=None, gt=0)
    """How much the adapter may change a layer at most (scale_weight_norms of sd-scripts); smaller is stricter."""
    use_rslora: bool = False
    """Divides alpha by the root of the rank instead of the rank, so that high ranks learn as fast as low ones."""
    loraplus_lr_ratio: float | None = Field(default=None, gt=0)
    """How many times faster the second matrix of each layer learns than the first (LoRA+); 16 is usual."""
    lora_init_type: Annotated[str, LORA_INITS] = "default"
    """What the adapter's weights are before the first step."""
    lora_format: Annotated[str, LORA_FORMATS, IfChanged.FINE] = "diffusers"
    """The names of the weights in the saved file."""
    flux_lora_target: Annotated[str, PRESETS] = "all"
    """Which layers of the model get an adapter."""
    peft_lora_target_modules: Annotated[TextList | None, BeforeValidator(_module_names)] = None
    """Names of layers that get an adapter, instead of flux_lora_target: a list, or a string with commas."""
    train_blocks: Annotated[str, BLOCK_KINDS] = "all"
    """Which kind of blocks gets an adapter."""
    train_double_block_indices: BlockNumbers = "all"
    """Which double blocks get an adapter: numbers and ranges such as 0-3,8; or all, or none."""
    train_single_block_indices: BlockNumbers = "all"
    """Which single blocks get an adapter: numbers and ranges such as 0-3,8; or all, or none."""
    img_attn_dim: Rank | None = None
    """The rank in the image's attention of double blocks; 0 leaves it out."""
    txt_attn_dim: Rank | None = None
    """The rank in the text's attention of double blocks; 0 leaves it out."""
    img_mlp_dim: Rank | None = None
    """The rank in the image's feed-forward layers of double blocks; 0 leaves them out."""
    txt_mlp_dim: Rank | None = None
    """The rank in the text's feed-forward layers of double blocks; 0 leaves them out."""
    img_mod_dim: Rank | None = None
    """The rank in the image's modulation of double blocks; 0 leaves it out."""
    txt_mod_dim: Rank | None = None
    """The rank in the text's modulation of double blocks; 0 leaves it out."""
    single_dim: Rank | None = None
    """The rank in the attention and feed-forward layers of single blocks; 0 leaves them out."""
    single_mod_dim: Rank | None = None
    """The rank in the modulation of single blocks; 0 leaves it out."""
    in_dims: Annotated[tuple[Rank, ...], Listed, BeforeValidator(_ranks)] = ()
    """The ranks of the layers before the blocks: image, time, vector, guidance, text; 0 leaves one out."""
    rank_pattern: Annotated[Mapping[str, Annotated[int, Field(ge=1)]], BeforeValidator(_object)] = {}
    """Ranks of single layers, by regular expressions for the end of their names, as in PEFT."""
    alpha_pattern: Annotated[Mapping[str, Above], BeforeValidator(_object), IfChanged.TOLD] = {}
    """Alphas of single layers, by regular expressions for the end of their names, as in PEFT."""
    lora_layers: Annotated[tuple[LayerRule, ...], BeforeValidator(_object), IfChanged.TOLD] = ()
    """Rules for single layers, a list of objects with pattern, rank, alpha and lr; the first that matches holds."""
    base_adapters: Annotated[TextList, IfChanged.TOLD] = ()
    """Adapter files that become part of the base before training begins."""
    base_adapters_strength: Annotated[tuple[float, ...], Listed, IfChanged.TOLD] = ()
    """How strongly each of base_adapters acts; 1 unless given."""
    peft_lora_mode: Annotated[str, LORA_MODES] = "standard"
    """A variant of LoRA with one matrix or two beside each layer."""
    singlora_ramp_up_steps: Annotated[int, belongs_to("peft_lora_mode singlora"), IfChanged.TOLD] = 0
    """Over how many steps a SingLoRA adapter comes to full strength."""
    slider_lora_target: bool = False
    """Trains the layers that slider adapters change, instead of flux_lora_target."""
    use_dora: bool = False
    """Trains length and direction of each weight separately (DoRA)."""
    init_lora: Annotated[str | None, IfChanged.FINE] = None
    """An adapter file to start from, from whatever program; its layers keep their ranks and alphas."""
    init_lora_step: Annotated[int | None, NotYet("leave it out: steps are counted from 0"), IfChanged.FINE] = None
    """The step number at which training goes on from an adapter file."""
    init_lora_ema: Annotated[str | None, NotYet("leave it out: averages start from init_lora"), IfChanged.FINE] = None
    """The averaged weights that belong to the adapter file in init_lora."""
    lycoris_config: Annotated[Mapping[str, Any] | str | None, BeforeValidator(_settings), IfChanged.TOLD] = None
    """Settings of a LyCORIS adapter: an object, or the path of a JSON file."""
    init_lokr_norm: Annotated[float | None, IfChanged.FINE] = Field(default=None, gt=0)
    """How far a LoKr adapter with full_matrix stands from zero at the start; 1e-4 to 1e-3 is usual."""
    assistant_lora_path: Annotated[str | None, IfChanged.TOLD] = None
    """A helping adapter that is on while training and off afterwards: a file, a folder, or an id on the Hub."""
    assistant_lora_strength: Annotated[float, IfChanged.TOLD] = 1.0
    """How strongly the helping adapter acts in training."""
    assistant_lora_inference_strength: Annotated[float, IfChanged.TOLD] = 0.0
    """How strongly the helping adapter acts in validation."""
    disable_assistant_lora: Annotated[bool, IfChanged.TOLD] = False
    """Leaves the helping adapter out."""
    fuse_qkv_projections: Annotated[bool, IfChanged.TOLD] = False
    """Computes three layers of attention as one; an adapter still trains each of them."""
    train_text_encoder: bool = False
    """Trains a LoRA for the text encoder CLIP too, which stays in memory and reads the captions anew in every step."""
    train_t5xxl: bool = False
    """Trains a LoRA for the text encoder T5 too, together with train_text_encoder; few programs load that part."""
    text_encoder_lr: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Listed, IfChanged.TOLD] = ()
    """The learning rate of the text encoders, or two, for CLIP and T5; 0 leaves one out; learning_rate unless given."""

    @field_validator("in_dims")
    @classmethod
    def _five_or_none(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value and len(value) != len(EMBEDDERS):
            raise ValueError(f"needs {len(EMBEDDERS)} ranks, for {', '.join(EMBEDDERS)}, got {len(value)}")
        return value

    @field_validator("text_encoder_lr")
    @classmethod
    def _at_most_two(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) > 2:
            raise ValueError(f"needs one number, or two for CLIP and T5, got {len(value)}")
        return value

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _patterns(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        return _expressions(value)
