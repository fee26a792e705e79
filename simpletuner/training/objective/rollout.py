"""Scheduled sampling: training on latents that the model itself drew on, as it will meet them when it draws pictures.

A sample starts at a noisier point of its way, and the model draws it on to the noise level it is trained at. How often,
how far and along which levels follows from the options and from draws of the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sqrt
from typing import TYPE_CHECKING

from simpletuner.schema import Choice, words
from simpletuner.training.objective.path import per_sample

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.training.options import Objective

STEPS = 28
"""Steps are as long as those of a picture that is drawn in so many."""

_LEAST = 1e-3


def share(options: Objective, step: int) -> float:
    """The share of samples that the model draws on at a step."""
    start = options.scheduled_sampling_prob_start
    start = options.scheduled_sampling_probability if start is None else start
    late = step - options.scheduled_sampling_start_step
    if late < 0 or not options.scheduled_sampling_max_step_offset:
        return 0.0
    if not options.scheduled_sampling_ramp_steps:
        return start
    progress = min(late / options.scheduled_sampling_ramp_steps, 1.0)
    if options.scheduled_sampling_ramp_shape == "cosine":
        progress = (1 - cos(pi * progress)) / 2
    return start + (options.scheduled_sampling_prob_end - start) * progress


def length(options: Objective, chance: float) -> int:
    """How many steps the model draws a sample on, from a uniform number in 0..1."""
    most = options.scheduled_sampling_max_step_offset
    preferred = STRATEGIES[options.scheduled_sampling_strategy](chance)
    return min(1 + int(preferred * most), most)


def way(sigma: float, shift: float, steps: int) -> list[float]:
    """The noise levels from a noisier one down to `sigma`, evenly spaced before they are shifted.

    Only `sigma` itself when hardly anything is noisier.
    """
    plain = sigma / (shift - (shift - 1) * sigma)
    start = min(1.0, plain + steps / STEPS)
    if start - plain < _LEAST:
        return [sigma]
    even = [start + (plain - start) * place / steps for place in range(steps)]
    return [*(shift * one / (1 + (shift - 1) * one) for one in even), sigma]


def drift_weights(options: Objective, drift: Tensor) -> Tensor:
    """How much more each number counts for having drifted, with shape (batch, channels, height, width)."""
    import torch

    size = drift.abs()
    whole = size.flatten(1).sum(1).clamp(min=torch.finfo(size.dtype).tiny)
    return 1 + options.scheduled_sampling_reflexflow_alpha * size / per_sample(whole, size)


def direction_error(answer: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """The squared distance of what a mask shows of two directions, made as long as one, with shape (batch,)."""
    from torch.nn.functional import normalize

    if mask is not None:
        answer, wanted = answer * mask, wanted * mask
    return (normalize(answer.flatten(1)) - normalize(wanted.flatten(1))).square().sum(1)


RAMPS = words("shape", {"linear": "In a straight line.", "cosine": "Slowly at its beginning and at its end."})


def _uniform(chance: float) -> float:
    """All numbers of steps equally often."""
    return chance


def _early(chance: float) -> float:
    """Few steps more often than many."""
    return 1 - sqrt(1 - chance)


def _late(chance: float) -> float:
    """Many steps more often than few."""
    return sqrt(chance)


STRATEGIES: Choice[Callable[[float], float]] = Choice(
    "strategy", {"uniform": _uniform, "biased_early": _early, "biased_late": _late}
)
