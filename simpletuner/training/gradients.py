"""Gradients of several processes become one: each is sent once, in pieces, and added up without losing digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

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
    for part in parted([one.grad for one in parameters if one.grad is not None]):
        flat = torch.cat([_exact(gradient).flatten() for gradient in part])
        reduce(flat)
        for gradient, added in zip(part, torch.split(flat, [one.numel() for one in part]), strict=True):
            gradient.copy_(added.view_as(gradient))


def parted(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one kind and place, in pieces that are worth sending and do not need much memory."""
    for _, alike in groupby(sorted(gradients, key=_kind), key=_kind):
        part: list[Tensor] = []
        size = 0
        for one in alike:
            if part and size + one.numel() > _PIECE:
                yield part
                part, size = [], 0
            part.append(one)
            size += one.numel()
        yield part


def _kind(tensor: Tensor) -> tuple[str, str]:
    return str(tensor.device), str(tensor.dtype)


def _exact(gradient: Tensor) -> Tensor:
    """In at least float32: numbers of 16 bits would lose much of what is added to them."""
    import torch

    return gradient.detach() if gradient.dtype == torch.float64 else gradient.detach().float()


_PIECE = 2**24
"""How many numbers are added up at once."""
