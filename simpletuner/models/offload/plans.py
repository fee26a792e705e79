"""The ways to keep weights off the device: which pieces they are moved in, and how many of these stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from simpletuner.errors import ModelError, Problem
from simpletuner.models.offload.carrier import Carrier
from simpletuner.models.offload.conveyor import Conveyor, Station
from simpletuner.models.offload.parcel import Parcel, frozen_tensors, used_once
from simpletuner.models.offload.schedule import Wanted, neighbours, window

if TYPE_CHECKING:
    import torch
    from torch import nn

SMALLEST = 2**16
"""Tensors of fewer bytes, such as norms and biases, stay on the device: moving them costs more than it saves."""


@dataclass(frozen=True)
class Line:
    """Pieces of the network that are moved by one schedule."""

    pieces: Sequence[Sequence[nn.Module]]
    wanted: Wanted
    staying: frozenset[int] = frozenset()
    """The numbers of pieces that never leave, and so need no place at home."""


class Offload(Protocol):
    """A way to keep weights off the device."""

    @property
    def is_overlapped(self) -> bool:
        """Whether weights are copied while the device computes, where the device can."""

    @property
    def needs_card(self) -> bool:
        """Whether a device that cannot copy while it computes is refused."""

    @property
    def disk(self) -> Path | None:
        """The folder for weights; main memory when there is none."""

    def refusal(self, kinds: Sequence[int]) -> Problem | None:
        """What is wrong with it for a network with so many blocks of each kind, and the option that says so."""

    def lines(self, blocks: Sequence[nn.Module]) -> Iterator[Line]:
        """The pieces that are moved, in the order in which they compute."""


@dataclass(frozen=True)
class BlockSwap:
    """A number of blocks is always off the device: the first or the last ones, whichever are not needed soon."""

    total: int = 0
    """As sd-scripts counts: half of them of the first kind, and two of the second kind for each that is left."""
    of_kind: tuple[int | None, ...] = ()
    """How many of each kind of block, in the order in which the kinds compute, instead of `total`."""
    is_overlapped: bool = True
    needs_card: bool = False
    disk: Path | None = None

    def refusal(self, kinds: Sequence[int]) -> Problem | None:
        """More blocks of a kind than can leave: two must stay, one that computes, and one that was just used."""
        own = (*self.of_kind, *[None] * len(kinds))
        for number, (count, swapped) in enumerate(zip(kinds, self._counts(len(kinds)), strict=True)):
            if swapped > count - 2:
                is_own = own[number] is not None
                option, most = (_OF_KIND[number], max(count - 2, 0)) if is_own else (_TOTAL, self._most(kinds))
                return Problem(
                    option,
                    f"{swapped} of the {_ordinal(number)} kind of blocks cannot be swapped: the network has {count} of "
                    f"them, and two must stay on the device; lower it to {most}{' or less' if most else ''}",
                )
        return None

    def lines(self, blocks: Sequence[nn.Module]) -> Iterator[Line]:
        """The first or the last blocks of each kind."""
        kinds = _by_kind(blocks)
        for kind, swapped in zip(kinds, self._counts(len(kinds)), strict=True):
            if swapped:
                staying = frozenset(range(swapped, len(kind) - swapped))
                yield Line([[block] for block in kind], window(len(kind), swapped), staying)

    def _counts(self, kinds: int) -> list[int]:
        own = (*self.of_kind, *[None] * kinds)
        return [count if one is None else one for count, one in zip(_shared(self.total, kinds), own, strict=False)]

    def _most(self, kinds: Sequence[int]) -> int:
        """The highest `total` that fits beside what is said of single kinds."""
        free = [number for number in range(len(kinds)) if (*self.of_kind, *[None] * len(kinds))[number] is None]
        shares = ((count, _shared(count, len(kinds))) for count in range(sum(kinds)))
        return max((count for count, share in shares if all(share[one] <= kinds[one] - 2 for one in free)), default=0)


@dataclass(frozen=True)
class LastBlocks:
    """The last blocks are off the device until they compute; the others never move."""

    count: int
    is_overlapped: bool = True
    needs_card: bool = False
    disk: Path | None = None

    def refusal(self, kinds: Sequence[int]) -> Problem | None:
        """More blocks than there are, but for one that never moves."""
        if self.count < sum(kinds):
            return None
        what = f"must be below {sum(kinds)}, which is how many blocks the network has, got {self.count}"
        return Problem("musubi_blocks_to_swap", what)

    def lines(self, blocks: Sequence[nn.Module]) -> Iterator[Line]:
        """The last blocks, one by one."""
        moving = blocks[len(blocks) - self.count :]
        yield Line([[block] for block in moving], neighbours(ahead=self.is_overlapped))


@dataclass(frozen=True)
class Groups:
    """Every block is off the device until its group computes."""

    blocks_per_group: int = 1
    is_overlapped: bool = False
    needs_card: bool = False
    disk: Path | None = None

    def refusal(self, kinds: Sequence[int]) -> Problem | None:
        """Nothing: groups may have any size."""
        return None

    def lines(self, blocks: Sequence[nn.Module]) -> Iterator[Line]:
        """All blocks, in groups."""
        size = self.blocks_per_group
        pieces = [blocks[start : start + size] for start in range(0, len(blocks), size)]
        yield Line(pieces, neighbours(ahead=self.is_overlapped))


@dataclass(frozen=True)
class Leaves:
    """Every layer is off the device until it computes: the least memory, and the most copies."""

    is_overlapped: bool = False
    needs_card: bool = False
    disk: Path | None = None
    names: tuple[str, ...] = ()
    """Only layers whose name ends with one of these; all when there are none."""
    percent: int = 100
    """The share of the layers that is moved, spread evenly."""

    def refusal(self, kinds: Sequence[int]) -> Problem | None:
        """Nothing: any number of layers can be moved."""
        return None

    def lines(self, blocks: Sequence[nn.Module]) -> Iterator[Line]:
        """The chosen layers of all blocks, one by one."""
        found = [layer for block in blocks for layer in _layers(block, self.names)]
        share = self.percent / 100
        chosen = [layer for place, layer in enumerate(found) if int((place + 1) * share) > int(place * share)]
        yield Line([[layer] for layer in chosen], neighbours(ahead=self.is_overlapped))


def attach(
    module: nn.Module,
    blocks: Sequence[nn.Module],
    plan: Offload,
    device: torch.device,
    *,
    smallest: int = SMALLEST,
) -> list[Conveyor]:
    """Send weights home, and everything else of the network to the device; hooks bring weights when they are needed.

    Call it when the network is complete: packed, with its adapter, and frozen but for what is trained.

    Args:
        module: The network, in main memory.
        blocks: Its blocks in the order in which they compute.
        plan: What is kept off the device.
        device: Where the network computes.
        smallest: Tensors of fewer bytes stay on the device.

    Raises:
        ModelError: The plan asks for more blocks than there are, or for a card where there is none, or the weights
            cannot be kept on disk.
    """
    if refusal := plan.refusal([len(kind) for kind in _by_kind(blocks)]):
        raise ModelError(f"{refusal}.")
    if plan.needs_card and device.type != "cuda":
        raise ModelError(
            f"group_offload_use_stream copies weights while a card computes, and this run is on {device.type}; "
            f"leave it out."
        )
    conveyors = []
    for number, line in enumerate(plan.lines(blocks)):
        carrier = Carrier(device, is_overlapped=plan.is_overlapped and device.type == "cuda")
        conveyors.append(Conveyor(_stations(line, plan, device, smallest, number), line.wanted, carrier))
    module.to(device)
    return conveyors


def settle(module: nn.Module, blocks: Sequence[nn.Module], plan: Offload | None, device: torch.device) -> None:
    """Bring a frozen network to its device, as a whole or as the plan says."""
    if plan is None:
        module.to(device)
    else:
        attach(module, blocks, plan, device)


def _stations(line: Line, plan: Offload, device: torch.device, smallest: int, number: int) -> list[Station]:
    found = used_once([frozen_tensors(piece, 0) for piece in line.pieces])
    alone = {id(tensor) for group in found for tensor in group}
    stations = []
    for place, piece in enumerate(line.pieces):
        shared = {id(tensor) for tensor in frozen_tensors(piece, 0)} - alone
        for one in piece:
            one.to(device)  # small tensors stay there, and so do the places of the others
        own = [tensor for tensor in frozen_tensors(piece, smallest) if id(tensor) not in shared]
        tensors = [] if place in line.staying else own
        disk = plan.disk / f"weights-{number}-{place}.bin" if plan.disk else None
        stations.append(Station(piece, Parcel(tensors, disk=disk)))
    return stations


def _layers(block: nn.Module, names: Sequence[str]) -> Iterator[nn.Module]:
    """The outermost modules with a matrix of their own: an adapter is one with the layer inside it."""
    inside: set[int] = set()
    for name, module in block.named_modules():
        base = module._modules.get("base_layer", module)
        held = [*base.parameters(recurse=False), *base.buffers(recurse=False)] if base is not None else []
        own = [tensor for tensor in held if tensor.ndim > 1]
        is_chosen = not names or any(name == one or name.endswith(f".{one}") for one in names)
        if id(module) in inside or not own:
            continue
        inside |= {id(part) for part in module.modules()}
        if is_chosen:
            yield module


_TOTAL = "blocks_to_swap"
_OF_KIND = ("double_blocks_to_swap", "single_blocks_to_swap")
"""The options of `BlockSwap`, in the order in which the kinds compute."""


def _by_kind(blocks: Sequence[nn.Module]) -> list[list[nn.Module]]:
    return [list(group) for _, group in groupby(blocks, key=type)]


def _ordinal(number: int) -> str:
    return ("first", "second", "third", "fourth")[min(number, 3)]


def _shared(total: int, kinds: int) -> list[int]:
    """How many blocks of each kind: one of the first kind weighs about as much as two of the second."""
    first = total // 2
    return [first, 2 * (total - first)] if kinds == 2 else [total] * min(kinds, 1) + [0] * (kinds - 1)
