"""The frozen weights of a piece of the network as one run of bytes: at home in memory or on disk, lent to a device.

One run of bytes is one copy from place to place.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ALIGNMENT = 256
"""Tensors begin at multiples of this many bytes, as kernels of the card want it."""

PIECE = 2**26
"""Memory that the card can read by itself is taken in pieces of this size: torch rounds larger ones up to the next
power of two, which would nearly double what some blocks take."""


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in a run of bytes."""

    start: int
    length: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, run: Tensor) -> Tensor:
        """The tensor itself, in the memory of the run."""
        return run[self.start : self.start + self.length].view(self.dtype).as_strided(self.shape, self.stride)


class Parcel:
    """Weights that share one run of bytes; the tensors of the network are pointed at it, wherever it is."""

    def __init__(self, tensors: Sequence[Tensor], *, disk: Path | None = None) -> None:
        """Take the weights from where they are; on their device nothing of them is left.

        Args:
            tensors: Tensors of the network that are not trained.
            disk: The file that keeps them; main memory keeps them when it is not given.
        """
        self._tensors = list(tensors)
        self._slots = list(_slots(self._tensors))
        self._places = [tensor.data.new_zeros(()).expand(tensor.shape) for tensor in self._tensors]
        self.length = sum(_padded(slot.length) for slot in self._slots)
        self._run: Tensor | None = None
        self._home = self._sent_home(disk)
        self.withdraw()

    def lend(self, run: Tensor) -> None:
        """Point the network's tensors at a run of bytes that holds, or will hold, a copy of the weights."""
        self._run = run
        for tensor, slot in zip(self._tensors, self._slots, strict=True):
            tensor.data = slot.view(run)

    def withdraw(self) -> Tensor | None:
        """Leave tensors of the same shape and no memory in the network; returns the run of bytes that is free now."""
        freed, self._run = self._run, None
        for tensor, place in zip(self._tensors, self._places, strict=True):
            tensor.data = place
        return freed

    def copy_to(self, run: Tensor, *, non_blocking: bool) -> None:
        """Write the weights into a run of bytes of their length."""
        import torch

        for part, piece in zip(torch.split(run, PIECE), self._home, strict=True):
            part.copy_(piece, non_blocking=non_blocking)

    def place_of(self, tensor: Tensor) -> Slot | None:
        """Where a tensor lies that is a view of the weights; nothing when it is none."""
        if (
            not self.length
            or self._run is None
            or tensor.untyped_storage().data_ptr() != self._run.untyped_storage().data_ptr()
        ):
            return None
        start, size = int(tensor.storage_offset()) * tensor.itemsize, tuple(tensor.shape)
        span = sum((count - 1) * step for count, step in zip(size, tensor.stride(), strict=True)) + 1
        return Slot(start, span * tensor.itemsize, tensor.dtype, size, tuple(tensor.stride()))

    def at(self, slot: Slot) -> Tensor:
        """The view of the weights at a place found with `place_of`, where they are now."""
        assert self._run is not None
        return slot.view(self._run)

    def _sent_home(self, disk: Path | None) -> Sequence[Tensor]:
        import torch

        whole = torch.empty(self.length, dtype=torch.uint8)
        for tensor, slot in zip(self._tensors, self._slots, strict=True):
            slot.view(whole).copy_(tensor.data)
        if disk is not None and self.length:
            return torch.split(_on_disk(whole, disk), PIECE)
        pieces = torch.split(whole, PIECE)
        is_card = any(tensor.is_cuda for tensor in self._tensors)
        return [piece.pin_memory() for piece in pieces] if is_card else pieces


def frozen_tensors(modules: Iterable[nn.Module], smallest: int) -> list[Tensor]:
    """Tensors with at least so many bytes that are not trained; buffers too, as packed weights are some."""
    found = {id(tensor): tensor for module in modules for tensor in _untrained(module)}
    return [tensor for tensor in found.values() if tensor.nbytes >= smallest]


def used_once(groups: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The same groups without tensors that belong to several of them: those must stay where they are."""
    count = Counter(id(tensor) for group in groups for tensor in group)
    return [[tensor for tensor in group if count[id(tensor)] == 1] for group in groups]


def _untrained(module: nn.Module) -> Iterator[Tensor]:
    yield from (parameter for parameter in module.parameters() if not parameter.requires_grad)
    yield from module.buffers()


def _slots(tensors: Iterable[Tensor]) -> Iterator[Slot]:
    start = 0
    for tensor in tensors:
        length = tensor.numel() * tensor.itemsize
        yield Slot(start, length, tensor.dtype, tuple(tensor.shape), _dense_stride(tensor))
        start += _padded(length)


def _dense_stride(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's own order in memory, unless there are holes in it."""
    span = sum((count - 1) * step for count, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    if span == tensor.numel():
        return tuple(tensor.stride())
    return tuple(math.prod(tensor.shape[place + 1 :]) for place in range(tensor.ndim))


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _on_disk(run: Tensor, path: Path) -> Tensor:
    """The same bytes in a file that loses its name at once: nothing is left of it, however the run ends."""
    import torch

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")  # other processes write to this folder too
        with path.open("wb") as file:
            file.write(run.numpy().data)
        kept = torch.from_file(str(path), shared=False, size=run.numel(), dtype=torch.uint8)
        path.unlink()
    except OSError as error:
        raise ModelError(
            f"the weights cannot be kept in {path.parent} ({error.strerror}). Choose another folder in "
            f"group_offload_to_disk_path, or leave it out to keep them in main memory."
        ) from error
    return kept
