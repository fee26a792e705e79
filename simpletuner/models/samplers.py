"""How the way from noise to picture is walked: from one noise level to the next, by what the network has said so far.

Of the velocity, noise minus image, follows the image that the network expects. Solvers of higher order compare that
expectation with the one before. They measure the way in half the logarithm of the signal-to-noise ratio, which is
endless at both ends: it is cut off near noise, and the step to a clean image is a plain one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from simpletuner.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor


class Solver(Protocol):
    """One way from noise to a picture, and what it remembers on it."""

    def step(self, latents: Tensor, velocity: Tensor, now: float, following: float) -> Tensor:
        """The latents at the following noise level, from those at this one and what the network said of them."""


class Euler:
    """Straight steps, as FLUX.1 is used."""

    def step(self, latents: Tensor, velocity: Tensor, now: float, following: float) -> Tensor:
        """Go on in the direction that the network says."""
        return latents + (following - now) * velocity.to(latents.dtype)


class DpmPlusPlus:
    """DPM-Solver++ of second order (2M): the same picture in fewer steps.

    Lu et al. 2022, arXiv 2211.01095, with the signal 1 - sigma and the noise sigma of flow matching. Of order 1, it is
    Euler's way.
    """

    def __init__(self, order: int = 2) -> None:
        self._order = order
        self._before: tuple[float, Tensor] | None = None

    def step(self, latents: Tensor, velocity: Tensor, now: float, following: float) -> Tensor:
        """Go towards the expected image, led on by how the expectation changed."""
        image = latents - now * velocity.to(latents.dtype)
        aim, before = image, self._before
        self._before = (now, image)
        if before is not None and following > 0 and self._order > 1:
            ratio = _way(before[0], now) / _way(now, following)
            aim = image + (image - before[1]) / (2 * ratio)
        return following / now * latents + _gain(now, following) * aim


class UniPc:
    """UniPC of second order: each step is corrected when the network has spoken at its end.

    Zhao et al. 2023, arXiv 2302.04867, in the form with B(h) = exp(h) - 1. Of order 1, it looks back on no step when
    it makes or corrects one.
    """

    def __init__(self, order: int = 2) -> None:
        self._order = order
        self._known: list[tuple[float, Tensor]] = []
        """Noise level and expected image of the last two steps."""
        self._last: tuple[Tensor, int] | None = None
        """Where the last step began, and its order."""

    def step(self, latents: Tensor, velocity: Tensor, now: float, following: float) -> Tensor:
        """Correct the step that led here, then make the next one."""
        image = latents - now * velocity.to(latents.dtype)
        if self._last is not None:
            latents = self._corrected(*self._last, image, now)
        self._known = [*self._known[-1:], (now, image)]
        order = min(len(self._known), self._order) if following > 0 else 1
        self._last = (latents, order)
        return self._next(latents, now, following, order)

    def _next(self, latents: Tensor, now: float, following: float, order: int) -> Tensor:
        image = self._known[-1][1]
        aim = image if order == 1 else image + 0.5 * self._slope(now, following)
        return following / now * latents + _gain(now, following) * aim

    def _slope(self, now: float, following: float) -> Tensor:
        """How the expectation changes over a step, judged by the step before."""
        (before, earlier), (_, image) = self._known[-2:]
        return (image - earlier) * (_way(now, following) / _way(before, now))

    def _corrected(self, start: Tensor, order: int, image: Tensor, now: float) -> Tensor:
        level, first = self._known[-1]
        change = 0.5 * (image - first)
        if order == 2:
            ratio = -_way(self._known[-2][0], level) / _way(level, now)
            old, new = _weights(ratio, _way(level, now))
            change = old * (self._known[-2][1] - first) / ratio + new * (image - first)
        return now / level * start + _gain(level, now) * (first + change)


def _weights(ratio: float, way: float) -> tuple[float, float]:
    """What the slopes of the step before and of this step count in a correction of second order."""
    one = math.expm1(-way) / -way - 1
    two = one / -way - 0.5
    first, second = one / math.expm1(-way), 2 * two / math.expm1(-way)
    old = (second - first) / (ratio - 1)
    return old, first - old


def _gain(now: float, following: float) -> float:
    """The share of the expected image that a step brings in."""
    return (1 - following) - (1 - now) * following / now


def _way(now: float, following: float) -> float:
    """How far it is from one noise level to a lower one, in half the logarithm of the signal-to-noise ratio."""
    return _place(following) - _place(now)


def _place(sigma: float) -> float:
    sigma = min(sigma, 1 - 1e-6)  # noise alone has no signal whose logarithm could be taken
    return math.log((1 - sigma) / sigma)


SAMPLERS: Choice[Callable[[], Solver]] = Choice(
    "sampler",
    {"euler": Euler, "dpm++": DpmPlusPlus, "unipc": UniPc},
    later=dict.fromkeys(("ddim", "ddpm", "euler-a", "perflow"), "it is not for flow matching; use euler"),
)
