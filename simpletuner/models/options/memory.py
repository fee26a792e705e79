"""What memory is traded against time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from simpletuner.schema import NoEffect, NotYet, Section, TextList, belongs_to, words

_NO_GROUP_OFFLOAD = NotYet("use gradient_checkpointing and base_model_precision int8-quanto or nf4-bnb to save memory")
_NO_COMPILE = NotYet("leave it out: training runs without torch.compile")
_NO_RAMTORCH = NotYet("use base_model_precision int8-quanto or nf4-bnb to save memory")


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
    gradient_checkpointing_offload_prefetch: Annotated[bool, belongs_to("gradient_checkpointing_offload_attention")] = (
        False
    )
    """Fetches what was moved to main memory a little before it is needed."""
    gradient_checkpointing_offload_pin_memory_max_buckets: Annotated[
        int, belongs_to("gradient_checkpointing_offload_attention")
    ] = 12
    """How many pieces of pinned main memory are held ready for this."""
    offload_during_startup: Annotated[bool, NoEffect("encoders are in memory only while they are used")] = False
    """Moves encoders off the card while they are not used."""
    offload_during_save: Annotated[bool, NoEffect("only the adapter is saved, which is small")] = False
    """Moves the model off the card while saving."""
    enable_group_offload: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Keeps groups of layers in main memory until they are needed."""
    group_offload_type: Annotated[str, belongs_to("enable_group_offload")] = "block_level"
    """Which layers make a group: those of a block, or each by itself."""
    group_offload_blocks_per_group: Annotated[int, belongs_to("enable_group_offload")] = 1
    """How many blocks make a group that is moved at once."""
    group_offload_use_stream: Annotated[bool, belongs_to("enable_group_offload")] = False
    """Fetches the next group while the card still computes."""
    group_offload_to_disk_path: Annotated[str, belongs_to("enable_group_offload")] = ""
    """The folder for groups that are kept on disk instead of in main memory."""
    group_offload_text_encoder: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Keeps groups of the text encoders' layers in main memory too."""
    group_offload_vae: Annotated[bool, _NO_GROUP_OFFLOAD] = False
    """Keeps groups of the image encoder's layers in main memory too."""
    ramtorch: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps weights in main memory and fetches each layer when it is needed."""
    ramtorch_target_modules: Annotated[TextList | None, belongs_to("ramtorch")] = None
    """Names of the layers whose weights stay in main memory."""
    ramtorch_transformer_percent: Annotated[int, belongs_to("ramtorch")] = 100
    """The share of the transformer's layers whose weights stay in main memory, in percent."""
    ramtorch_text_encoder: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps the weights of the text encoders in main memory."""
    ramtorch_text_encoder_percent: Annotated[int, belongs_to("ramtorch")] = 100
    """The share of the text encoders' layers whose weights stay in main memory, in percent."""
    ramtorch_vae: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps the weights of the image encoder in main memory."""
    ramtorch_controlnet: Annotated[bool, _NO_RAMTORCH] = False
    """Keeps the weights of the ControlNet in main memory."""
    ramtorch_disable_sync_hooks: Annotated[bool, belongs_to("ramtorch")] = False
    """Leaves out waiting for weights that are still on their way."""
    ramtorch_disable_extensions: Annotated[bool, belongs_to("ramtorch")] = True
    """Keeps only linear layers in main memory."""
    musubi_blocks_to_swap: Annotated[int, _NO_GROUP_OFFLOAD] = 0
    """How many of the last blocks stay in main memory until they are needed."""
    musubi_block_swap_device: Annotated[str, belongs_to("musubi_blocks_to_swap")] = "cpu"
    """The place where swapped blocks stay."""
    attention_mechanism: Annotated[str, ATTENTIONS] = "diffusers"
    """Which code computes attention."""
    sageattention_usage: Annotated[str, belongs_to("attention_mechanism sageattention")] = "inference"
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
    dynamo_mode: Annotated[str, belongs_to("dynamo_backend")] = ""
    """How hard the compiler tries."""
    dynamo_fullgraph: Annotated[bool, belongs_to("dynamo_backend")] = False
    """Compiles the model as one piece or not at all."""
    dynamo_dynamic: Annotated[bool, belongs_to("dynamo_backend")] = False
    """Compiles the model for images of changing sizes."""
    dynamo_use_regional_compilation: Annotated[bool, _NO_COMPILE] = False
    """Compiles only what repeats, the blocks."""
    fully_unload_text_encoder: Annotated[bool, NoEffect("encoders are in memory only while they are used")] = False
    """Removes text encoders from memory after caching."""
