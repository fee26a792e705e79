"""Many small tensors as a few long vectors: to send or compute with each by itself would cost more than the work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def pieces(tensors: Iterable[Tensor], longest: int) -> Iterator[list[Tensor]]:
    """In lots of so many numbers at most, unless a single tensor has more: a vector takes memory."""
    piece: list[Tensor] = []
    numbers = 0
    for tensor in tensors:
        if piece and numbers + tensor.numel() > longest:
            yield piece
            piece, numbers = [], 0
        piece.append(tensor)
        numbers += tensor.numel()
    if piece:
        yield piece


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of all numbers of tensors of one kind, in float32 at least; that of a single tensor may be itself."""
    import torch

    flat = [tensor.flatten() for tensor in tensors]
    return (flat[0] if len(flat) == 1 else torch.cat(flat)).to(torch.promote_types(flat[0].dtype, torch.float32))


def put(tensors: Sequence[Tensor], values: Tensor) -> None:
    """The numbers of a vector back to where they belong."""
    import torch

    parts = torch.split(values, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_([*tensors], [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
