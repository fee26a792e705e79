"""AdamW that trains bf16 weights without losing small updates.

A bf16 number has eight significant bits, so an update of less than about 0.4 % of a weight would be rounded away. Two
things prevent that: Kahan summation carries what was rounded off to the next step, and the moments are rounded
stochastically, so that they are right on average (Zamirai et al. 2020, arXiv 2010.06192). Weights of higher precision
are updated as by plain AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class AdamWBF16(Optimizer):
    """AdamW with Kahan summation of the weights and stochastic rounding of the moments."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, self.state[parameter], group)
        return loss

    def _update(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            if parameter.dtype == torch.bfloat16:
                state["compensation"] = torch.zeros_like(parameter)
        state["step"] += 1
        assert parameter.grad is not None
        beta1, beta2 = group["betas"]
        wide = torch.promote_types(parameter.dtype, torch.float32)
        gradient = parameter.grad.to(wide)
        mean = state["exp_avg"].to(wide).lerp(gradient, 1 - beta1)
        square = state["exp_avg_sq"].to(wide).lerp(gradient.square(), 1 - beta2)
        _store(state["exp_avg"], mean)
        _store(state["exp_avg_sq"], square)
        deviation = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        change = mean / (1 - beta1 ** state["step"]) / deviation + group["weight_decay"] * parameter.to(wide)
        _add(parameter, -group["lr"] * change, state.get("compensation"))


def _add(parameter: Tensor, change: Tensor, compensation: Tensor | None) -> None:
    if compensation is None:
        parameter.add_(change)
        return
    wanted = parameter.float() + (change + compensation.float())
    parameter.copy_(wanted)
    compensation.copy_(wanted - parameter.float())


def _store(stored: Tensor, value: Tensor) -> None:
    if stored.dtype == torch.bfloat16:
        round_stochastically(stored, value)
    else:
        stored.copy_(value)


def round_stochastically(target: Tensor, value: Tensor) -> None:
    """Write float32 values to a bf16 tensor, rounding up as often as the lost part says: right on average.

    bf16 is the upper half of a float32, so adding 16 random bits below it and cutting them off does this.
    """
    bits = value.contiguous().view(torch.int32)
    noise = torch.randint_like(bits, 1 << 16)
    target.copy_(((bits + noise) & -65536).view(torch.float32))
