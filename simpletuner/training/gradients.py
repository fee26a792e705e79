"""Gradients of several processes become one: each is sent once, in pieces, and added up without losing digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from simpletuner.training import vectors

if TYPE_CHECKING:
    from torch import Tensor, nn


def add(parameters: Sequence[nn.Parameter], reduce: Callable[[Tensor], None]) -> None:
    """Put the sum over all processes in the place of each gradient; `reduce` adds up a tensor in place.

    A weight that some processes did not use counts as zero there; one that none used keeps no gradient.
    """
    import torch

    used = torch.tensor([one.grad is not None for one in parameters], dtype=torch.int32)
    reduce(used)
    for one, uses in zip(parameters, used.tolist(), strict=True):
        if uses and one.grad is None:
            one.grad = torch.zeros_like(one)
    with torch.no_grad():
        for part in parted([one.grad for one in parameters if one.grad is not None]):
            flat = vectors.joined(part)  # in float32: numbers of 16 bits would lose much of what is added to them
            reduce(flat)
            vectors.put(part, flat)


def parted(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one kind and place, in pieces that are worth sending and do not need much memory."""
    for _, alike in groupby(sorted(gradients, key=_kind), key=_kind):
        yield from vectors.pieces(alike, _PIECE)


def _kind(tensor: Tensor) -> tuple[str, str]:
    return str(tensor.device), str(tensor.dtype)


_PIECE = 2**24
"""How many numbers are added up at once."""
