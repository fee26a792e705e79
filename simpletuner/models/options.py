"""What a config says about the model: weights, precision, adapter, memory, token routing. Imports no torch."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.families import FAMILIES
from simpletuner.models.flux.family import FLAVOURS
from simpletuner.models.precision import PRECISIONS
from simpletuner.schema import NoEffect, NotYet, Section, TextList, words

_NO_CONTROLNET = NotYet("leave it out to train a LoRA without ControlNet")
_NO_GROUP_OFFLOAD = NotYet("use gradient_checkpointing and base_model_precision int8-quanto or nf4-bnb to save memory")
_NO_COMPILE = NotYet("leave it out: training runs without torch.compile")
_NO_RAMTORCH = NotYet("use base_model_precision int8-quanto or nf4-bnb to save memory")
_NO_SDNQ = NotYet("use base_model_precision int8-quanto or nf4-bnb")
_ONLY_TWO = NoEffect("FLUX has two text encoders")


def _belongs_to(option: str) -> NoEffect:
    return NoEffect(f"it belongs to {option}, which is not served yet")


MODEL_TYPES = words(
    "model type",
    {"lora": "Trains a small adapter and leaves the model as it is."},
    later={"full": "use lora"},
)


class Model(Section):
    """Which model is trained, and where its weights come from."""

    model_family: Annotated[str, FAMILIES] = "flux"
    """The kind of model; every flavour of FLUX.1 is of the family flux."""
    model_flavour: Annotated[str, FLAVOURS] | None = None
    """Which published variant of the model to start from; Krea when no path is given either."""
    model_type: Annotated[str, MODEL_TYPES] = "lora"
    """What is trained: an adapter, or the whole model."""
    pretrained_model_name_or_path: str | None = None
    """A model of your own instead of a flavour: an id on the Hub, or a folder in diffusers layout."""
    pretrained_transformer_model_name_or_path: str | None = None
    """Takes only the transformer from somewhere else, such as a fine-tuned one."""
    pretrained_transformer_subfolder: str = "transformer"
    """The folder of the transformer inside that place; none means that it lies at the top."""
    pretrained_vae_model_name_or_path: str | None = None
    """Takes only the image encoder from somewhere else."""
    pretrained_t5_model_name_or_path: Annotated[str | None, NotYet("put T5 into the folder text_encoder_2")] = None
    """Takes only the large text encoder from somewhere else."""
    revision: str | None = None
    """The revision on the Hub: a branch, a tag or a commit."""
    variant: str | None = None
    """The variant of the weight files on the Hub, such as fp16."""
    trust_remote_code: Annotated[bool, NoEffect("no code is ever loaded from the Hub")] = False
    """Allows code from the Hub to run."""
    delete_model_after_load: Annotated[bool, NotYet("delete the Hub's cache yourself after training")] = False
    """Removes downloaded weights once they are loaded."""
    controlnet: Annotated[bool, _NO_CONTROLNET] = False
    """Trains a ControlNet, which follows a picture besides the prompt."""
    control: Annotated[bool, _NO_CONTROLNET] = False
    """Trains an adapter that sees a second picture as further channels of the image."""
    controlnet_model_name_or_path: Annotated[str | None, _NO_CONTROLNET] = None
    """The ControlNet to go on from."""
    controlnet_custom_config: Annotated[Mapping[str, Any] | str | None, _NO_CONTROLNET] = None
    """Gives a new ControlNet another shape than usual."""


MIXED_PRECISIONS = words(
    "mixed precision",
    {
        "bf16": "Computes in bf16: the usual choice on any recent card.",
        "no": "Computes in float32: for processors and for comparing results.",
    },
    later={"fp16": "use bf16", "fp8": "use bf16"},
)
DTYPES = words(
    "precision", {"bf16": "16 bits with the range of float32.", "fp32": "32 bits."}, later={"fp16": "use bf16"}
)
QUANTIZE_VIA = words(
    "place to quantise",
    {
        "cpu": "Weights are packed in main memory and then moved to the card.",
        "accelerator": "Accepted; weights are packed in main memory, which needs less of the card.",
        "pipeline": "Accepted; weights are packed in main memory, which needs less of the card.",
    },
)
_PACKED_IN_MAIN_MEMORY = "weights are always packed in main memory before they move to the card"


class Precision(Section):
    """How exactly numbers are kept and computed."""

    mixed_precision: Annotated[str, MIXED_PRECISIONS] = "bf16"
    """The precision of arithmetic."""
    base_model_precision: Annotated[str, PRECISIONS] = "no_change"
    """How the frozen transformer is kept in memory: packed weights let larger models fit."""
    text_encoder_1_precision: Annotated[str, PRECISIONS] = "no_change"
    """How the CLIP text encoder is kept in memory."""
    text_encoder_2_precision: Annotated[str, PRECISIONS] = "no_change"
    """How the T5 text encoder is kept in memory."""
    text_encoder_3_precision: Annotated[str, _ONLY_TWO] = "no_change"
    """How a third text encoder is kept in memory, which other model families have."""
    text_encoder_4_precision: Annotated[str, _ONLY_TWO] = "no_change"
    """How a fourth text encoder is kept in memory, which other model families have."""
    base_model_default_dtype: Annotated[
        str, DTYPES, NoEffect("what is not packed has the precision of mixed_precision")
    ] = "bf16"
    """The precision of those weights that are not packed."""
    quantize_via: Annotated[str, QUANTIZE_VIA, NoEffect(_PACKED_IN_MAIN_MEMORY)] = "cpu"
    """Where weights are packed before they are used."""
    quantization_config: Annotated[Mapping[str, Any] | str | None, NotYet("use base_model_precision")] = None
    """How weights are packed, in the words of diffusers' own settings."""
    quantize_activations: Annotated[bool, NotYet("leave it out: only weights are packed")] = False
    """Packs what flows between layers too."""
    vae_dtype: Annotated[str, DTYPES] = "bf16"
    """The precision of the image encoder."""
    disable_tf32: Annotated[bool, NoEffect("float32 arithmetic is never shortened to TF32")] = False
    """Keeps float32 arithmetic exact on NVIDIA cards."""
    sdnq_weights_dtype: Annotated[str | None, _NO_SDNQ] = None
    """The format in which the library SDNQ packs weights."""
    sdnq_group_size: Annotated[int | None, _NO_SDNQ] = None
    """How many weights share one scale when SDNQ packs them."""
    sdnq_use_svd: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ keep the largest part of each weight matrix exact."""
    sdnq_svd_rank: Annotated[int | None, _NO_SDNQ] = None
    """How much of a weight matrix SDNQ keeps exact."""
    sdnq_svd_steps: Annotated[int | None, _NO_SDNQ] = None
    """How long SDNQ looks for the part that it keeps exact."""
    sdnq_use_hadamard: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ rotate weights before it packs them, so that outliers cost less."""
    sdnq_hadamard_group_size: Annotated[int | None, _NO_SDNQ] = None
    """How many weights SDNQ rotates together."""
    sdnq_compile_mode: Annotated[str | None, _NO_SDNQ] = None
    """How SDNQ compiles its unpacking."""
    sdnq_quantized_matmul_dtype: Annotated[str | None, _NO_SDNQ] = None
    """The format in which SDNQ multiplies packed weights."""
    sdnq_use_quantized_matmul: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ multiply packed weights without unpacking them."""
    sdnq_use_static_quantization: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ pack weights once and not anew for each use."""
    sdnq_use_stochastic_rounding: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ round at random, so that it is right on average."""
    sdnq_dequantize_fp32: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ unpack weights in 32 bits."""
    sdnq_modules_to_not_convert: Annotated[TextList | None, _NO_SDNQ] = None
    """Names of layers that SDNQ does not pack."""
    sdnq_modules_to_not_use_matmul: Annotated[TextList | None, _NO_SDNQ] = None
    """Names of layers whose packed weights SDNQ always unpacks."""
    sdnq_modules_dtype_dict: Annotated[Mapping[str, Any] | str | None, _NO_SDNQ] = None
    """Other formats for some layers, for SDNQ."""
    sdnq_modules_quant_config: Annotated[Mapping[str, Any] | str | None, _NO_SDNQ] = None
    """Other settings for some layers, for SDNQ."""


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
    singlora_ramp_up_steps: Annotated[int, _belongs_to("peft_lora_mode singlora")] = 0
    """Over how many steps a SingLoRA adapter comes to full strength."""
    slider_lora_target: Annotated[bool, NotYet("use flux_lora_target mmdit")] = False
    """Trains the layers that slider adapters change."""
    use_dora: Annotated[bool, NotYet("leave it out to train a plain LoRA")] = False
    """Trains length and direction of each weight separately (DoRA)."""
    init_lora: Annotated[str | None, NotYet("use resume_from_checkpoint to go on from a run of your own")] = None
    """An adapter file to start from."""
    init_lora_step: Annotated[int | None, _belongs_to("init_lora")] = None
    """The step number at which training goes on from an adapter file."""
    init_lora_ema: Annotated[str | None, _belongs_to("init_lora")] = None
    """The averaged weights that belong to the adapter file in init_lora."""
    lycoris_config: Annotated[
        Mapping[str, Any] | str | None, NoEffect("it is read only with lora_type lycoris, which is not served yet")
    ] = None
    """Settings of a LyCORIS adapter: an object, or the path of a JSON file."""
    init_lokr_norm: Annotated[float | None, _belongs_to("lora_type lycoris")] = None
    """How far a LoKr adapter stands from zero at the start."""
    assistant_lora_path: Annotated[str | None, NotYet("leave it out: it is only of use with schnell")] = None
    """A helping adapter that is on while training and off afterwards."""
    assistant_lora_strength: Annotated[float, _belongs_to("assistant_lora_path")] = 1.0
    """How strongly the helping adapter acts in training."""
    assistant_lora_inference_strength: Annotated[float, _belongs_to("assistant_lora_path")] = 0.0
    """How strongly the helping adapter acts in validation."""
    disable_assistant_lora: Annotated[bool, NoEffect("no helping adapter is used")] = False
    """Leaves the helping adapter out."""
    fuse_qkv_projections: Annotated[bool, NotYet("leave it out: it changes speed, not results")] = False
    """Computes three layers of attention as one."""
    train_text_encoder: Annotated[bool, NotYet("leave it out: only the transformer is trained")] = False
    """Trains an adapter for the text encoder too."""
    text_encoder_lr: Annotated[float | None, _belongs_to("train_text_encoder")] = None
    """The learning rate of the text encoder's own adapter."""


ATTENTIONS = words(
    "attention mechanism",
    {
        "diffusers": "The attention of PyTorch, which picks the fastest kernel of the card.",
        "native": "Another name of diffusers.",
    },
    later=dict.fromkeys(
        (
            *(
                "native-efficient",
                "native-flash",
                "native-math",
                "native-npu",
                "native-xla",
                "cudnn",
                "flex",
                "xformers",
            ),
            *("sla", "sageattention", "sageattention-int8-fp16-triton", "sageattention-int8-fp16-cuda"),
            *("sageattention-int8-fp8-cuda", "flash-attn", "flash-attn-hub", "flash-attn-2", "flash-attn-varlen-hub"),
            *("flash-attn-3", "flash-attn-3-hub", "flash-attn-3-varlen", "flash-attn-3-varlen-hub", "flash-attn-4-hub"),
            *("metal-flash-attention", "metal-flash-attention-int8", "metal-flash-attention-int4"),
        ),
        "use diffusers, which picks the fastest kernel that PyTorch has",
    ),
)


class Memory(Section):
    """What memory is traded against time."""

    gradient_checkpointing: bool = True
    """Computes blocks twice instead of keeping what they computed: much less memory, about a third slower."""
    gradient_checkpointing_interval: int | None = Field(default=None, ge=1)
    """Saves memory on every n-th block only; 1 means every block, the only way that is served."""
    gradient_checkpointing_segment_stride: Annotated[
        int | None, NotYet("leave it out: every block is checkpointed")
    ] = None
    """Saves memory on the first few of each so many blocks."""
    gradient_checkpointing_backend: Annotated[
        str,
        words(
            "checkpointing backend",
            {"torch": "PyTorch's own."},
            later=dict.fromkeys(("unsloth", "torch-ffn", "unsloth-ffn"), "use torch"),
        ),
    ] = "torch"
    """Which code computes blocks a second time."""
    gradient_checkpointing_offload_attention: Annotated[
        bool, NotYet("leave it out: gradient_checkpointing saves more")
    ] = False
    """Keeps what attention has computed in main memory until it is needed again."""
    gradient_checkpointing_offload_prefetch: Annotated[
        bool, _belongs_to("gradient_checkpointing_offload_attention")
    ] = False
    """Fetches what was moved to main memory a little before it is needed."""
    gradient_checkpointing_offload_pin_memory_max_buckets: Annotated[
        int, _belongs_to("gradient_checkpointing_offload_attention")
    ] = 12
    """How many pieces of pinned main memory are held ready for this."""
    offload_during_startup: Annotated[bool, NoEffect("encoders are in memory only while they are used")] = False
    """Moves encoders off the card while they are not used."""
    offload_during_save: Annotated[bool, NoEffect("only the adapter is saved, which is small")] = False
    """Moves the model off the card while saving."""
    enable_group_offload: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Keeps groups of layers in main memory until they are needed."""
    group_offload_type: Annotated[str, _belongs_to("enable_group_offload")] = "block_level"
    """Which layers make a group: those of a block, or each by itself."""
    group_offload_blocks_per_group: Annotated[int, _belongs_to("enable_group_offload")] = 1
    """How many blocks make a group that is moved at once."""
    group_offload_use_stream: Annotated[bool, _belongs_to("enable_group_offload")] = False
    """Fetches the next group while the card still computes."""
    group_offload_to_disk_path: Annotated[str, _belongs_to("enable_group_offload")] = ""
    """The folder for groups that are kept on disk instead of in main memory."""
    group_offload_text_encoder: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Keeps groups of the text encoders' layers in main memory too."""
    group_offload_vae: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Keeps groups of the image encoder's layers in main memory too."""
    ramtorch: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps weights in main memory and fetches each layer when it is needed."""
    ramtorch_target_modules: Annotated[TextList | None, _belongs_to("ramtorch")] = None
    """Names of the layers whose weights stay in main memory."""
    ramtorch_transformer_percent: Annotated[int, _belongs_to("ramtorch")] = 100
    """The share of the transformer's layers whose weights stay in main memory, in percent."""
    ramtorch_text_encoder: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps the weights of the text encoders in main memory."""
    ramtorch_text_encoder_percent: Annotated[int, _belongs_to("ramtorch")] = 100
    """The share of the text encoders' layers whose weights stay in main memory, in percent."""
    ramtorch_vae: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps the weights of the image encoder in main memory."""
    ramtorch_controlnet: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps the weights of the ControlNet in main memory."""
    ramtorch_disable_sync_hooks: Annotated[bool, _belongs_to("ramtorch")] = False
    """Leaves out waiting for weights that are still on their way."""
    ramtorch_disable_extensions: Annotated[bool, _belongs_to("ramtorch")] = True
    """Keeps only linear layers in main memory."""
    musubi_blocks_to_swap: Annotated[int, _NO_GROUP_OFFLOAD] = 0
    """How many of the last blocks stay in main memory until they are needed."""
    musubi_block_swap_device: Annotated[str, _belongs_to("musubi_blocks_to_swap")] = "cpu"
    """The place where swapped blocks stay."""
    attention_mechanism: Annotated[str, ATTENTIONS] = "diffusers"
    """Which code computes attention."""
    sageattention_usage: Annotated[str, _belongs_to("attention_mechanism sageattention")] = "inference"
    """Whether SageAttention computes in training, in validation or in both."""
    sla_config: Annotated[Mapping[str, Any] | str | None, NotYet("use attention_mechanism diffusers")] = None
    """How sparse attention leaves parts out."""
    vae_enable_tiling: bool = False
    """Encodes and decodes large images in tiles: less memory, a little slower."""
    vae_enable_slicing: bool = False
    """Encodes and decodes the images of a batch one by one: less memory."""
    keep_vae_loaded: Annotated[bool, NotYet("leave it out: the image encoder is loaded when it is needed")] = False
    """Keeps the image encoder in memory during training."""
    accelerator_cache_clear_interval: Annotated[int | None, NotYet("leave it out: memory is reused as it is")] = None
    """Gives unused memory back to the card every so many steps."""
    dynamo_backend: Annotated[str, _NO_COMPILE] = "no"
    """Compiles the model before training, which makes steps faster and the start slower."""
    dynamo_mode: Annotated[str, _belongs_to("dynamo_backend")] = ""
    """How hard the compiler tries."""
    dynamo_fullgraph: Annotated[bool, _belongs_to("dynamo_backend")] = False
    """Compiles the model as one piece or not at all."""
    dynamo_dynamic: Annotated[bool, _belongs_to("dynamo_backend")] = False
    """Compiles the model for images of changing sizes."""
    dynamo_use_regional_compilation: Annotated[bool, _NO_COMPILE] = False
    """Compiles only what repeats, the blocks."""
    fully_unload_text_encoder: Annotated[bool, NoEffect("encoders are in memory only while they are used")] = False
    """Removes text encoders from memory after caching."""


class TreadRoute(Section):
    """A range of blocks that a share of the image skips while training."""

    selection_ratio: float = Field(ge=0, lt=1)
    """The share of the image's tokens that skips the blocks."""
    start_layer_idx: int
    """The first block that is skipped; negative numbers count from behind."""
    end_layer_idx: int
    """The last block that is skipped; negative numbers count from behind."""


class TreadConfig(Section):
    """Routes for token routing."""

    routes: tuple[TreadRoute, ...]
    """Ranges of blocks, one after the other."""

    @field_validator("routes")
    @classmethod
    def _at_least_one(cls, value: tuple[TreadRoute, ...]) -> tuple[TreadRoute, ...]:
        if not value:
            raise ValueError("names no route; add one, or leave tread_config out")
        return value


def _object(value: Any) -> Any:
    """Accept an object, or text that holds one as JSON or as a Python literal."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"is neither an object nor JSON text of one, got {value!r}") from error


class Routing(Section):
    """Leaving out parts of the work while training."""

    tread_config: Annotated[TreadConfig | None, BeforeValidator(_object)] = None
    """Lets a share of the image skip some blocks (TREAD): faster steps, and a loss that reads higher."""
    diffusion_blocks_config: Annotated[
        Mapping[str, Any] | str | None, NotYet("leave it out: all blocks are trained")
    ] = None
    """Trains groups of blocks one after the other."""
