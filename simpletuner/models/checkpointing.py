"""Gradient checkpointing: blocks that are computed a second time instead of keeping what they computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LARGE = 2**20
"""Tensors of at least so many bytes are worth moving to main memory."""


@dataclass(frozen=True)
class Recompute:
    """Which blocks are computed twice, and where the little that they must keep is kept."""

    interval: int = 1
    """Every so many blocks; or, with a stride, the first so many blocks of each stride."""
    stride: int | None = None
    keeps_in_main_memory: bool = False
    """Keeps what enters a block in main memory until the block is computed again."""
    large: int = LARGE

    def chosen(self, count: int) -> frozenset[int]:
        """The numbers of the blocks that are computed twice, of a network with `count` blocks."""
        if self.stride is not None:
            return frozenset(number for number in range(count) if number % self.stride < self.interval)
        return frozenset(range(0, count, self.interval))


def enable(blocks: Sequence[nn.Module], plan: Recompute) -> None:
    """Compute the chosen blocks a second time when their gradients are asked for.

    Not by diffusers' own switch, which leaves arguments of some families' blocks out. Hooks of a block stay outside
    and run once; those of layers inside it run again.
    """
    for number in sorted(plan.chosen(len(blocks))):
        block = blocks[number]
        block.forward = partial(_twice, block.forward, plan)


def _twice(forward: Callable[..., Any], plan: Recompute, *args: Any, **kwargs: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def run(*values: Any) -> Any:
        return forward(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

    # All by position: what comes by name would neither be moved, nor tell on which card random numbers are drawn.
    with _in_main_memory(plan.large) if plan.keeps_in_main_memory else nullcontext():
        return checkpoint(run, *args, *kwargs.values(), use_reentrant=False)


def _in_main_memory(large: int) -> AbstractContextManager[None]:
    """Inside the ``with``, large tensors that autograd keeps go to main memory, and come back when they are used."""
    import torch

    def pack(tensor: Tensor) -> Tensor | tuple[torch.device, Tensor]:
        if tensor.nbytes < large:
            return tensor
        is_card = tensor.device.type == "cuda"
        kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=is_card)
        return tensor.device, kept.copy_(tensor, non_blocking=is_card)

    def unpack(kept: Tensor | tuple[torch.device, Tensor]) -> Tensor:
        if not isinstance(kept, tuple):
            return kept
        device, tensor = kept
        return tensor.to(device, non_blocking=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
