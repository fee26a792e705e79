"""Optimizer steps inside the backward pass: a gradient is used and dropped as soon as it is known.

Only for optimizers that treat each weight by itself, without accumulation, and with gradients clipped by value: a norm
of all gradients is not known before the last of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


def by_weight(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups of weights with the same settings as groups of one weight each."""
    return [{**group, "params": [parameter]} for group in groups for parameter in group["params"]]


class UpdatesInBackward:
    """Steps each weight when its gradient is complete; the optimizer's state is what it would be otherwise."""

    def __init__(self, optimizer: Optimizer, *, limit: float) -> None:
        """Take over the steps of an optimizer.

        Args:
            optimizer: Its own `step` is not to be called any more. It has a group for each weight, as `by_weight` makes
                them: some keep in a group how many steps it has made.
            limit: Each number of a gradient is limited to this; 0 for no limit.
        """
        self._optimizer = optimizer
        self._limit = limit
        self._norms: list[Tensor] = []
        for number, group in enumerate(optimizer.param_groups):
            (parameter,) = group["params"]
            parameter.register_post_accumulate_grad_hook(partial(self._step, number))

    def norm(self) -> float:
        """The norm of all gradients since it was last asked for, before they were limited."""
        import torch

        norms, self._norms = self._norms, []
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    def _step(self, number: int, parameter: nn.Parameter) -> None:
        import torch

        assert parameter.grad is not None
        self._norms.append(torch.linalg.vector_norm(parameter.grad.detach(), dtype=torch.float32))
        if self._limit > 0:
            parameter.grad.clamp_(-self._limit, self._limit)
        whole = self._optimizer.param_groups
        self._optimizer.param_groups = [whole[number]]  # optimizers look at nothing else than their groups
        try:
            self._optimizer.step()
        finally:
            self._optimizer.param_groups = whole
        parameter.grad = None
