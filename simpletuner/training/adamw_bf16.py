"""AdamW that trains bf16 weights without losing small updates.

A bf16 number has eight significant bits, so an update of less than about 0.4 % of a weight would be rounded away. Two
things prevent that: Kahan summation carries what was rounded off to the next step, and the moments are rounded
stochastically, so that they are right on average (Zamirai et al. 2020, arXiv 2010.06192). Weights of higher precision
are updated as by plain AdamW.

An adapter has a thousand small weights, and to start a kernel for each of a dozen operations takes a card longer than
the operations do. So weights are joined to long vectors, computed with there, and put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from simpletuner.training.vectors import joined, pieces, put


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
            for together in self._vectors(group["params"]):
                self._update(together, group)
        return loss

    def _vectors(self, parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
        """Those with a gradient, in lots that can be computed with as one vector."""
        alike: dict[tuple[Any, ...], list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                key = (parameter.dtype, parameter.device, self._begun(parameter)["step"])
                alike.setdefault(key, []).append(parameter)
        for lot in alike.values():
            yield from pieces(lot, IN_CACHE if lot[0].is_cpu else ON_CARD)

    def _begun(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            if parameter.dtype == torch.bfloat16:
                state["compensation"] = torch.zeros_like(parameter)
        return state

    def _update(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        step = states[0]["step"] + 1
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = group["betas"]
        gradient = joined([parameter.grad for parameter in parameters if parameter.grad is not None])
        mean = joined(means).lerp(gradient, 1 - beta1)
        square = joined(squares).lerp(gradient.square(), 1 - beta2)
        _store(means, mean)
        _store(squares, square)
        weights = joined(parameters)
        deviation = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        change = mean / (1 - beta1**step) / deviation + group["weight_decay"] * weights
        _add(parameters, weights, -group["lr"] * change, [state.get("compensation") for state in states])
        for state in states:
            state["step"] = step


ON_CARD = 1 << 22
"""Numbers in a vector, unless a single weight has more: enough to keep a card busy, with 16 MiB for each in float32."""
IN_CACHE = 1 << 16
"""The same for a processor, whose cache is to hold them."""


def _add(parameters: Sequence[Tensor], weights: Tensor, change: Tensor, compensations: Sequence[Tensor | None]) -> None:
    known = [one for one in compensations if one is not None]
    wanted = weights + (change + joined(known) if known else change)
    put(parameters, wanted)
    if known:
        put(known, wanted - joined(parameters))


def _store(stored: Sequence[Tensor], value: Tensor) -> None:
    put(stored, rounded_stochastically(value) if stored[0].dtype == torch.bfloat16 else value)


def rounded_stochastically(value: Tensor) -> Tensor:
    """Float32 values that bf16 can hold, rounded up as often as the lost part says: right on average.

    bf16 is the upper half of a float32, so adding 16 random bits below it and cutting them off does this.
    """
    bits = value.contiguous().view(torch.int32)
    noise = torch.randint_like(bits, 1 << 16)
    return ((bits + noise) & -65536).view(torch.float32)
