"""Optimizer steps inside the backward pass: a gradient is used and dropped as soon as it is known.

Only for optimizers that treat each weight by itself, without accumulation, and with gradients clipped by value: a norm
of all gradients is not known before the last of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class UpdatesInBackward:
    """Steps each weight when its gradient is complete; the optimizer's state is what it would be otherwise."""

    def __init__(self, optimizer: Optimizer, *, limit: float) -> None:
        """Take over the steps of an optimizer.

        Args:
            optimizer: Its own `step` is not to be called any more.
            limit: Each number of a gradient is limited to this; 0 for no limit.
        """
        self._optimizer = optimizer
        self._limit = limit
        self._norms: list[Tensor] = []
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
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
        # The group with one weight in it: optimizers look at nothing else than their groups.
        self._optimizer.param_groups = [{**whole[number], "params": [parameter]}]
        try:
            self._optimizer.step()
        finally:
            self._optimizer.param_groups = whole
        parameter.grad = None
