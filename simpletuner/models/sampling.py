"""Drawing images with a denoiser: steps along the noise levels, guided by further predictions if that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simpletuner.models.family import SamplingSchedule
from simpletuner.models.samplers import Euler, Solver
from simpletuner.models.skipping import Skip, skipping

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.family import Conditioning, Denoiser


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt steers.

    `embedded` is the value that guidance-distilled networks take as an input. `real` mixes in a second prediction for
    the negative prompt (Ho and Salimans 2022, arXiv 2207.12598) from step `real_from` on; 1.0 leaves it out. `skip`
    leads away from what the network says without some of its blocks.
    """

    embedded: float = 3.5
    real: float = 1.0
    real_from: int = 0
    skip: Skip | None = None


Watch = Callable[[int, "Tensor"], None]
"""Told after each step, counted from 1, what the picture is expected to become."""


def _unwatched(step: int, expected: Tensor) -> None:
    """Nobody looks on."""


@dataclass(frozen=True)
class Course:
    """The way from a start to a picture."""

    schedule: SamplingSchedule
    solver: Solver = field(default_factory=Euler)
    watch: Watch = _unwatched

    def shortened(self, strength: float) -> Course:
        """The last part of the way, which changes a picture only in part: all of it at strength 1."""
        count = len(self.schedule.sigmas) - 1
        first = count - max(1, min(count, round(count * strength)))
        return Course(SamplingSchedule(self.schedule.sigmas[first:]), self.solver, self.watch)


def sample(
    denoiser: Denoiser,
    start: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None,
    course: Course,
    guidance: Guidance,
) -> Tensor:
    """Turn noise into latents.

    Args:
        denoiser: In eval mode, on the device of `start`.
        start: Standard normal numbers with shape (batch, channels, height, width), or a picture with the first noise
            level of the course in it.
        conditioning: Of the prompts, stacked along the batch axis.
        negative: Of the negative prompts; needed where `guidance.real` is above 1.
        course: The noise levels, and how the way between them is walked.
        guidance: How strongly the prompt steers.
    """
    latents, sigmas = start, course.schedule.sigmas
    for step, (now, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        direction = _direction(denoiser, latents, now, conditioning, negative, guidance, (step, len(sigmas) - 1))
        course.watch(step + 1, latents - now * direction.to(latents.dtype))
        latents = course.solver.step(latents, direction, now, following)
    return latents


def _direction(
    denoiser: Denoiser,
    latents: Tensor,
    now: float,
    conditioning: Conditioning,
    negative: Conditioning | None,
    guidance: Guidance,
    place: tuple[int, int],
) -> Tensor:
    """The velocity with all guidance in it; `place` is the number of the step and how many there are."""
    import torch

    sigma = latents.new_full(latents.shape[:1], now, dtype=torch.float32)
    value = torch.full_like(sigma, guidance.embedded) if denoiser.uses_guidance else None
    plain = direction = denoiser.predict(latents, sigma, conditioning, value)
    if negative is not None and guidance.real > 1 and place[0] >= guidance.real_from:
        away = denoiser.predict(latents, sigma, negative, value)
        direction = away + guidance.real * (direction - away)
    if guidance.skip is not None and guidance.skip.acts(*place):
        with skipping(denoiser.blocks, guidance.skip.layers):
            weak = denoiser.predict(latents, sigma, conditioning, value)
        direction = direction + guidance.skip.scale * (plain - weak)
    return direction
