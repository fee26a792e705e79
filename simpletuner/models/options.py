"""What a config says about the model: weights, precision, adapter, memory, token routing. Imports no torch."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

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
_SUB_OPTION = NoEffect("it belongs to an option that is not served yet")
_ONLY_TWO = NoEffect("FLUX has two text encoders")

MODEL_TYPES = words(
    "model type",
    {"lora": "Trains a small adapter and leaves the model as it is."},
    later={"full": "use lora"},
)


class Model(Section):
    """Which model is trained, and where its weights come from."""

    model_family: Annotated[str, FAMILIES] = "flux"
    """The kind of model."""
    model_flavour: Annotated[str, FLAVOURS] | None = None
    """Which published variant of the model to start from."""
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
    """Trains an adapter that takes a picture as additional channels."""
    controlnet_model_name_or_path: Annotated[str | None, _NO_CONTROLNET] = None
    """The ControlNet to go on from."""
    controlnet_custom_config: Annotated[Mapping[str, Any] | str | None, _NO_CONTROLNET] = None
    """Changes the shape of a new ControlNet."""
    max_grounding_entities: Annotated[int, NotYet("leave it out: FLUX takes no boxes")] = 0
    """How many boxes with captions an image may have."""


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
    """Known from other model families."""
    text_encoder_4_precision: Annotated[str, _ONLY_TWO] = "no_change"
    """Known from other model families."""
    base_model_default_dtype: Annotated[
        str, DTYPES, NoEffect("what is not packed has the precision of mixed_precision")
    ] = "bf16"
    """The precision of what is not packed."""
    quantize_via: Annotated[str, QUANTIZE_VIA, NoEffect(_PACKED_IN_MAIN_MEMORY)] = "cpu"
    """Where weights are packed."""
    quantization_config: Annotated[Mapping[str, Any] | str | None, NotYet("use base_model_precision")] = None
    """Settings of the packing in the form that diffusers takes."""
    quantize_activations: Annotated[bool, NotYet("leave it out: only weights are packed")] = False
    """Packs what flows between layers too."""
    vae_dtype: Annotated[str, DTYPES] = "bf16"
    """The precision of the image encoder."""
    disable_tf32: Annotated[bool, NoEffect("float32 arithmetic is never shortened to TF32")] = False
    """Keeps float32 arithmetic exact on NVIDIA cards."""
    sdnq_weights_dtype: Annotated[str | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_group_size: Annotated[int | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_use_svd: Annotated[bool | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_svd_rank: Annotated[int | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_svd_steps: Annotated[int | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_use_hadamard: Annotated[bool | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_hadamard_group_size: Annotated[int | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_compile_mode: Annotated[str | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_quantized_matmul_dtype: Annotated[str | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_use_quantized_matmul: Annotated[bool | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_use_static_quantization: Annotated[bool | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_use_stochastic_rounding: Annotated[bool | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_dequantize_fp32: Annotated[bool | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_modules_to_not_convert: Annotated[TextList | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_modules_to_not_use_matmul: Annotated[TextList | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_modules_dtype_dict: Annotated[Mapping[str, Any] | str | None, _NO_SDNQ] = None
    """Settings of SDNQ."""
    sdnq_modules_quant_config: Annotated[Mapping[str, Any] | str | None, _NO_SDNQ] = None
    """Settings of SDNQ."""


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
    """The kind of adapter."""
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
    """A variant of LoRA."""
    singlora_ramp_up_steps: Annotated[int, _SUB_OPTION] = 0
    """Settings of SingLoRA."""
    slider_lora_target: Annotated[bool, NotYet("use flux_lora_target mmdit")] = False
    """Trains the layers that sliders use."""
    use_dora: Annotated[bool, NotYet("leave it out to train a plain LoRA")] = False
    """Trains length and direction of the weights separately."""
    init_lora: Annotated[str | None, NotYet("use resume_from_checkpoint to go on from a run of your own")] = None
    """An adapter file to start from."""
    init_lora_step: Annotated[int | None, _SUB_OPTION] = None
    """The step that an adapter file stands at."""
    init_lora_ema: Annotated[str | None, _SUB_OPTION] = None
    """The averaged weights that go with an adapter file."""
    lycoris_config: Annotated[
        Mapping[str, Any] | str | None, NoEffect("it is read only with lora_type lycoris, which is not served yet")
    ] = None
    """Settings of a LyCORIS adapter: an object, or the path of a JSON file."""
    init_lokr_norm: Annotated[float | None, _SUB_OPTION] = None
    """How far a LoKr adapter starts from zero."""
    assistant_lora_path: Annotated[str | None, NotYet("leave it out: it is only of use with schnell")] = None
    """A helping adapter that is on while training and off afterwards."""
    assistant_lora_strength: Annotated[float, _SUB_OPTION] = 1.0
    """How strongly the helping adapter acts in training."""
    assistant_lora_inference_strength: Annotated[float, _SUB_OPTION] = 0.0
    """How strongly the helping adapter acts in validation."""
    disable_assistant_lora: Annotated[bool, NoEffect("no helping adapter is used")] = False
    """Leaves the helping adapter out."""
    fuse_qkv_projections: Annotated[bool, NotYet("leave it out: it changes speed, not results")] = False
    """Computes three layers of attention as one."""
    train_text_encoder: Annotated[bool, NotYet("leave it out: only the transformer is trained")] = False
    """Trains an adapter for the text encoder too."""
    text_encoder_lr: Annotated[float | None, _SUB_OPTION] = None
    """The learning rate of the text encoder's adapter."""


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
    """Known from SimpleTuner: every n-th block is checkpointed; only every block is served."""
    gradient_checkpointing_segment_stride: Annotated[
        int | None, NotYet("leave it out: every block is checkpointed")
    ] = None
    """Checkpoints the first blocks of each window of this many."""
    gradient_checkpointing_backend: Annotated[
        str,
        words(
            "checkpointing backend",
            {"torch": "PyTorch's own."},
            later=dict.fromkeys(("unsloth", "torch-ffn", "unsloth-ffn"), "use torch"),
        ),
    ] = "torch"
    """How blocks are computed twice."""
    gradient_checkpointing_offload_attention: Annotated[bool, NotYet("leave it out")] = False
    """Keeps what attention computed in main memory."""
    gradient_checkpointing_offload_prefetch: Annotated[bool, _SUB_OPTION] = False
    """Fetches it back ahead of time."""
    gradient_checkpointing_offload_pin_memory_max_buckets: Annotated[int, _SUB_OPTION] = 12
    """How much of it is kept in pinned memory."""
    offload_during_startup: Annotated[bool, NoEffect("encoders are in memory only while they are used")] = False
    """Moves encoders off the card when they are not used."""
    offload_during_save: Annotated[bool, NoEffect("only the adapter is saved, which is small")] = False
    """Moves the model off the card while saving."""
    enable_group_offload: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Keeps groups of layers in main memory until they are needed."""
    group_offload_type: Annotated[str, _SUB_OPTION] = "block_level"
    """What a group is: a block or a layer."""
    group_offload_blocks_per_group: Annotated[int, _SUB_OPTION] = 1
    """How many blocks make a group."""
    group_offload_use_stream: Annotated[bool, _SUB_OPTION] = False
    """Fetches groups ahead of time."""
    group_offload_to_disk_path: Annotated[str, _SUB_OPTION] = ""
    """Keeps groups on disk."""
    group_offload_text_encoder: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Offloads the text encoders too."""
    group_offload_vae: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Offloads the image encoder too."""
    ramtorch: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps weights in main memory and fetches each layer when it is needed."""
    ramtorch_target_modules: Annotated[TextList | None, _SUB_OPTION] = None
    """Which layers stay in main memory."""
    ramtorch_transformer_percent: Annotated[int, _SUB_OPTION] = 100
    """The share of layers that stay in main memory."""
    ramtorch_text_encoder: Annotated[bool, _NO_RAMTORCH] = False
    """Does so for the text encoders."""
    ramtorch_text_encoder_percent: Annotated[int, _SUB_OPTION] = 100
    """The share of layers that stay in main memory."""
    ramtorch_vae: Annotated[bool, _NO_RAMTORCH] = False
    """Does so for the image encoder."""
    ramtorch_controlnet: Annotated[bool, _NO_RAMTORCH] = False
    """Does so for the ControlNet."""
    ramtorch_disable_sync_hooks: Annotated[bool, _SUB_OPTION] = False
    """Settings of RamTorch."""
    ramtorch_disable_extensions: Annotated[bool, _SUB_OPTION] = True
    """Settings of RamTorch."""
    musubi_blocks_to_swap: Annotated[int, _NO_GROUP_OFFLOAD] = 0
    """How many blocks stay in main memory until they are needed."""
    musubi_block_swap_device: Annotated[str, _SUB_OPTION] = "cpu"
    """Where swapped blocks stay."""
    attention_mechanism: Annotated[str, ATTENTIONS] = "diffusers"
    """Which code computes attention."""
    sageattention_usage: Annotated[str, _SUB_OPTION] = "inference"
    """When SageAttention is used."""
    sla_config: Annotated[Mapping[str, Any] | str | None, NotYet("use attention_mechanism diffusers")] = None
    """Settings of sparse attention."""
    vae_enable_tiling: bool = False
    """Encodes and decodes large images in tiles: less memory, a little slower."""
    vae_enable_slicing: bool = False
    """Encodes and decodes the images of a batch one by one: less memory."""
    keep_vae_loaded: Annotated[bool, NotYet("leave it out: the image encoder is loaded when it is needed")] = False
    """Keeps the image encoder in memory during training."""
    accelerator_cache_clear_interval: Annotated[int | None, NotYet("leave it out")] = None
    """Gives free memory back to the card every so many steps."""
    dynamo_backend: Annotated[str, _NO_COMPILE] = "no"
    """Compiles the model before training."""
    dynamo_mode: Annotated[str, _SUB_OPTION] = ""
    """How it is compiled."""
    dynamo_fullgraph: Annotated[bool, _SUB_OPTION] = False
    """Compiles it as a whole."""
    dynamo_dynamic: Annotated[bool, _SUB_OPTION] = False
    """Compiles it for changing sizes."""
    dynamo_use_regional_compilation: Annotated[bool, _NO_COMPILE] = False
    """Compiles only the blocks."""
    fully_unload_text_encoder: Annotated[bool, NoEffect("encoders are in memory only while they are used")] = False
    """Removes text encoders from memory after caching."""

    @model_validator(mode="after")
    def _every_block(self) -> Memory:
        if self.gradient_checkpointing_interval not in {None, 1}:
            raise ValueError(
                f"gradient_checkpointing_interval {self.gradient_checkpointing_interval} is not served yet; use 1, "
                f"which checkpoints every block"
            )
        return self


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

    routes: tuple[TreadRoute, ...] = Field(min_length=1)
    """Ranges of blocks, one after the other."""


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
    diffusion_blocks_config: Annotated[Mapping[str, Any] | str | None, NotYet("leave it out")] = None
    """Trains blocks one after the other."""
