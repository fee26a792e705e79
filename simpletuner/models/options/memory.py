"""What memory is traded against time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from simpletuner.models.attention import ATTENTIONS
from simpletuner.models.compiling import COMPILERS, EFFORTS
from simpletuner.schema import NoEffect, NotYet, Section, TextList, belongs_to, words

__all__ = ["ATTENTIONS", "CHECKPOINTING", "GROUPS", "Memory"]

CHECKPOINTING = words(
    "checkpointing backend",
    {
        "torch": "PyTorch's own: what enters a block stays on the card.",
        "unsloth": "What enters a block waits in main memory until the block is computed again: a little slower.",
    },
    later={"torch-ffn": "use torch", "unsloth-ffn": "use unsloth"},
)
GROUPS = words(
    "group offload type",
    {
        "block_level": "Blocks of the network, several of them if group_offload_blocks_per_group says so.",
        "leaf_level": "Each layer by itself: the least memory, and the slowest.",
    },
)
SAGE_USES = words(
    "use of SageAttention",
    {"inference": "Only validation computes with it."},
    later=dict.fromkeys(("training", "training+inference"), "use inference: no gradient goes through SageAttention"),
)
SWAP_PLACES = words("place of swapped blocks", {"cpu": "Main memory."})


class Memory(Section):
    """What memory is traded against time."""

    gradient_checkpointing: bool = True
    """Computes blocks twice instead of keeping what they computed: much less memory, about a third slower."""
    gradient_checkpointing_interval: int | None = Field(default=None, ge=1)
    """Computes only every n-th block twice: the higher, the faster, and the more memory; every block if left out."""
    gradient_checkpointing_segment_stride: int | None = Field(default=None, ge=1)
    """Computes the first blocks of each so many twice, as many as gradient_checkpointing_interval says."""
    gradient_checkpointing_backend: Annotated[str, CHECKPOINTING] = "torch"
    """Where the little that is kept of a block waits until the block is computed again."""
    gradient_checkpointing_offload_attention: Annotated[
        bool, NotYet("use gradient_checkpointing_backend unsloth, which moves what enters a block")
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
    offload_during_save: Annotated[bool, NoEffect("saving needs no memory on the card")] = False
    """Moves the model off the card while saving."""
    blocks_to_swap: int = Field(default=0, ge=0)
    """How many blocks wait in main memory, as sd-scripts counts: less memory, and a little slower. 0 to 35 for FLUX."""
    double_blocks_to_swap: int | None = Field(default=None, ge=0)
    """How many of the double blocks wait in main memory; half of blocks_to_swap unless given."""
    single_blocks_to_swap: int | None = Field(default=None, ge=0)
    """How many of the single blocks wait in main memory; the rest of blocks_to_swap, two for one, unless given."""
    enable_group_offload: bool = False
    """Keeps all blocks in main memory until they are needed: the least memory on the card, and the slowest."""
    group_offload_type: Annotated[str, GROUPS] = "block_level"
    """Which layers make a group that is moved at once."""
    group_offload_blocks_per_group: int = Field(default=1, ge=1)
    """How many blocks make a group that is moved at once."""
    group_offload_use_stream: bool = False
    """Fetches the next group while the card still computes: faster, and memory for two groups."""
    group_offload_to_disk_path: str = ""
    """The folder for groups that are kept on disk instead of in main memory."""
    group_offload_text_encoder: bool = False
    """Keeps groups of the text encoders' layers in main memory too."""
    group_offload_vae: bool = False
    """Keeps groups of the image encoder's layers in main memory too."""
    ramtorch: bool = False
    """Keeps the weights of each layer in main memory and fetches them when the layer computes."""
    ramtorch_target_modules: TextList | None = None
    """Names of the layers whose weights stay in main memory; all layers of the blocks unless given."""
    ramtorch_transformer_percent: int = Field(default=100, ge=0, le=100)
    """The share of the transformer's layers whose weights stay in main memory, in percent."""
    ramtorch_text_encoder: bool = False
    """Keeps the weights of the text encoders in main memory."""
    ramtorch_text_encoder_percent: int = Field(default=100, ge=0, le=100)
    """The share of the text encoders' layers whose weights stay in main memory, in percent."""
    ramtorch_vae: bool = False
    """Keeps the weights of the image encoder in main memory."""
    ramtorch_controlnet: Annotated[bool, NoEffect("a ControlNet that is trained stays on the card")] = False
    """Keeps the weights of the ControlNet in main memory."""
    ramtorch_disable_sync_hooks: Annotated[bool, NoEffect("the card waits for weights by itself")] = False
    """Leaves out waiting for weights that are still on their way."""
    ramtorch_disable_extensions: Annotated[bool, NoEffect("only layers with large weights are moved")] = True
    """Keeps only linear layers in main memory."""
    musubi_blocks_to_swap: int = Field(default=0, ge=0)
    """How many of the last blocks stay in main memory until they are needed."""
    musubi_block_swap_device: Annotated[str, SWAP_PLACES] = "cpu"
    """The place where swapped blocks stay."""
    attention_mechanism: Annotated[str, ATTENTIONS] = "diffusers"
    """Which code computes attention."""
    sageattention_usage: Annotated[str, SAGE_USES] = "inference"
    """Whether SageAttention computes in training, in validation or in both."""
    sla_config: Annotated[Mapping[str, Any] | str | None, NotYet("use attention_mechanism diffusers")] = None
    """How sparse attention leaves parts out."""
    vae_enable_tiling: bool = False
    """Encodes and decodes large images in tiles: less memory, a little slower."""
    vae_enable_slicing: bool = False
    """Encodes and decodes the images of a batch one by one: less memory."""
    keep_vae_loaded: bool = False
    """Keeps the image encoder in memory during training."""
    accelerator_cache_clear_interval: int | None = Field(default=None, ge=1)
    """Gives unused memory back to the card every so many steps."""
    dynamo_backend: Annotated[str, COMPILERS] = "no"
    """Compiles the blocks before training, which makes steps faster and the start slower."""
    dynamo_mode: Annotated[str | None, EFFORTS] = None
    """How hard the compiler tries."""
    dynamo_fullgraph: bool = False
    """Compiles each block as one piece or not at all."""
    dynamo_dynamic: bool = False
    """Compiles for images of changing sizes from the start; otherwise the compiler finds out."""
    dynamo_use_regional_compilation: Annotated[bool, NoEffect("it is always only the blocks that are compiled")] = False
    """Compiles only what repeats, the blocks."""
    fully_unload_text_encoder: Annotated[bool, NoEffect("encoders are in memory only while they are used")] = False
    """Removes text encoders from memory after caching."""
