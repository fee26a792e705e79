"""What the memory options mean: plans for offloading, checkpointing and compiling, and what does not go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from simpletuner.errors import Problem
from simpletuner.models.checkpointing import Recompute
from simpletuner.models.compiling import Compilation
from simpletuner.models.offload.plans import BlockSwap, Groups, LastBlocks, Leaves, Offload
from simpletuner.models.options.memory import Memory


def offload(options: Memory) -> Offload | None:
    """How weights are kept off the device, if they are."""
    if options.enable_group_offload:
        return _groups(options)
    if options.ramtorch:
        names = options.ramtorch_target_modules or ()
        return Leaves(is_overlapped=True, names=names, percent=options.ramtorch_transformer_percent)
    if options.musubi_blocks_to_swap:
        return LastBlocks(options.musubi_blocks_to_swap)
    if _swaps(options):
        own = (options.double_blocks_to_swap, options.single_blocks_to_swap)
        return BlockSwap(options.blocks_to_swap, own)
    return None


def offload_of_encoders(options: Memory) -> Offload | None:
    """How weights of text encoders are kept off the device, if they are."""
    if options.group_offload_text_encoder:
        return _groups(options)
    if options.ramtorch_text_encoder:
        return Leaves(is_overlapped=True, percent=options.ramtorch_text_encoder_percent)
    return None


def offload_of_codec(options: Memory) -> Offload | None:
    """How weights of the image encoder are kept off the device, if they are."""
    if options.group_offload_vae:
        return _groups(options)
    return Leaves(is_overlapped=True) if options.ramtorch_vae else None


def recompute(options: Memory) -> Recompute | None:
    """Which blocks are computed twice, if any are."""
    if not options.gradient_checkpointing:
        return None
    return Recompute(
        interval=options.gradient_checkpointing_interval or 1,
        stride=options.gradient_checkpointing_segment_stride,
        keeps_in_main_memory=options.gradient_checkpointing_backend == "unsloth",
    )


def compilation(options: Memory) -> Compilation | None:
    """How blocks are compiled, if they are."""
    if options.dynamo_backend == "no":
        return None
    return Compilation(
        backend=options.dynamo_backend,
        mode=options.dynamo_mode,
        fullgraph=options.dynamo_fullgraph,
        dynamic=options.dynamo_dynamic or None,
    )


@dataclass(frozen=True)
class Circumstances:
    """What options of other sections say, as far as memory options depend on it."""

    is_packed: bool = False
    """The weights of the network are stored in fewer bits."""
    trains_weights: bool = False
    """The weights themselves are trained, without an adapter."""
    reads_weights: bool = False
    """The adapter computes with the weights of its layers, as DoRA and LyCORIS do."""
    joins_projections: bool = False
    """`fuse_qkv_projections` is on."""
    routes_tokens: bool = False
    """There is a `tread_config`."""
    has_controlnet: bool = False
    trains_text: bool = False
    """Text encoders are trained too."""
    blocks: tuple[int, ...] = ()
    """How many blocks of each kind there are, where that is known."""


def conflicts(options: Memory, others: Circumstances) -> Iterator[Problem]:
    """Everything that does not go together."""
    yield from _between_ways(options)
    yield from _of_others(options, others)
    yield from _checkpointing(options)
    yield from _compiling(options, others)
    yield from _joining(others)
    if others.trains_weights and (way := next(_ways(options), None)):
        yield Problem(way, "keeps frozen weights off the card, and model_type full trains all of them; leave it out")
    yield from _counting(options, others)
    if others.routes_tokens and others.has_controlnet:
        yield Problem("tread_config", "leaves out tokens that a ControlNet adds to; leave one of the two out")


def remarks(options: Memory) -> Iterator[str]:
    """Options that have no effect as the options stand together."""
    for switches, names in _BELONGINGS.items():
        if all(options.__dict__[switch] in (False, "no") for switch in switches):
            changed = (name for name in names if options.__dict__[name] != Memory.model_fields[name].get_default())
            yield from (f"{name} has no effect without {switches[0]}" for name in changed)
    moves = any((options.enable_group_offload, options.group_offload_text_encoder, options.group_offload_vae))
    if moves and options.group_offload_type == "leaf_level" and options.group_offload_blocks_per_group > 1:
        yield "group_offload_blocks_per_group has no effect: with group_offload_type leaf_level, a layer is a group"
    for switch in ("ramtorch_transformer_percent", "ramtorch_text_encoder_percent"):
        if options.__dict__[switch] == 0 and options.__dict__[_SWITCHES[switch]]:
            yield f"{_SWITCHES[switch]} has no effect: {switch} is 0"


_SWITCHES = {
    "ramtorch_transformer_percent": "ramtorch",
    "ramtorch_text_encoder_percent": "ramtorch_text_encoder",
}
"""The shares of layers in percent, each with the option that it belongs to."""

_BELONGINGS = {
    ("gradient_checkpointing",): (
        *("gradient_checkpointing_interval", "gradient_checkpointing_segment_stride"),
        "gradient_checkpointing_backend",
    ),
    ("enable_group_offload", "group_offload_text_encoder", "group_offload_vae"): (
        *("group_offload_type", "group_offload_blocks_per_group", "group_offload_use_stream"),
        "group_offload_to_disk_path",
    ),
    ("ramtorch",): ("ramtorch_target_modules", "ramtorch_transformer_percent"),
    ("ramtorch_text_encoder",): ("ramtorch_text_encoder_percent",),
    ("dynamo_backend",): ("dynamo_mode", "dynamo_fullgraph", "dynamo_dynamic"),
}


def _groups(options: Memory) -> Offload:
    disk = Path(options.group_offload_to_disk_path) if options.group_offload_to_disk_path else None
    streamed = options.group_offload_use_stream
    if options.group_offload_type == "leaf_level":
        return Leaves(is_overlapped=streamed, needs_card=streamed, disk=disk)
    return Groups(options.group_offload_blocks_per_group, is_overlapped=streamed, needs_card=streamed, disk=disk)


def _swaps(options: Memory) -> bool:
    return any(options.__dict__[name] for name in _SWAPPING)


_SWAPPING = ("blocks_to_swap", "double_blocks_to_swap", "single_blocks_to_swap")


def _ways(options: Memory) -> Iterator[str]:
    """The options that keep weights off the device, of those that are on."""
    if options.enable_group_offload:
        yield "enable_group_offload"
    if options.ramtorch:
        yield "ramtorch"
    if options.musubi_blocks_to_swap:
        yield "musubi_blocks_to_swap"
    if _swaps(options):
        yield ", ".join(name for name in _SWAPPING if options.__dict__[name])


def _of_others(options: Memory, others: Circumstances) -> Iterator[Problem]:
    """Ways to keep the weights of other networks than the transformer off the device."""
    for one, other in _PAIRS:
        if options.__dict__[one] and options.__dict__[other]:
            yield Problem(other, f"does not go together with {one}: both decide where weights are; leave one out")
    for name in ("group_offload_text_encoder", "ramtorch_text_encoder"):
        if options.__dict__[name] and others.trains_text:
            yield Problem(name, "keeps frozen weights off the card, and train_text_encoder trains them; leave one out")


_PAIRS = (("group_offload_text_encoder", "ramtorch_text_encoder"), ("group_offload_vae", "ramtorch_vae"))


def _between_ways(options: Memory) -> Iterator[Problem]:
    for one, other in combinations(_ways(options), 2):
        yield Problem(other, f"does not go together with {one}: both decide where weights are; leave one of them out")


def counts_blocks(options: Memory) -> bool:
    """Whether it matters how many blocks there are."""
    return bool(options.musubi_blocks_to_swap) or _swaps(options)


def _counting(options: Memory, others: Circumstances) -> Iterator[Problem]:
    plan = offload(options)
    refusal = plan.refusal(others.blocks) if plan is not None and others.blocks else None
    if refusal is not None:
        yield refusal


def _checkpointing(options: Memory) -> Iterator[Problem]:
    interval, stride = options.gradient_checkpointing_interval or 1, options.gradient_checkpointing_segment_stride
    if stride is not None and stride < interval:
        yield Problem(
            "gradient_checkpointing_segment_stride",
            f"{stride} is less than gradient_checkpointing_interval ({interval}), which it must hold; raise it",
        )


def _compiling(options: Memory, others: Circumstances) -> Iterator[Problem]:
    if options.dynamo_backend == "no":
        return
    if way := next(_ways(options), None):
        yield Problem("dynamo_backend", f"compiled blocks cannot be moved; leave it out, or leave out {way}")
    if options.dynamo_mode is not None and options.dynamo_backend != "inductor":
        yield Problem("dynamo_mode", f"is for dynamo_backend inductor, not {options.dynamo_backend}; leave it out")
    if others.joins_projections:
        yield Problem("fuse_qkv_projections", "the compiler cannot follow it; leave it out with dynamo_backend")


def _joining(others: Circumstances) -> Iterator[Problem]:
    if not others.joins_projections:
        return
    reasons = {
        "base_model_precision: weights can be joined only while they are plain; use no_change": others.is_packed,
        "model_type full: joined weights are frozen; use lora": others.trains_weights,
        "adapters that compute with the weights of a layer, as DoRA and LyCORIS do": others.reads_weights,
    }
    for reason, holds in reasons.items():
        if holds:
            yield Problem("fuse_qkv_projections", f"does not go together with {reason}; or leave it out")
