"""Drawing images with a denoiser: Euler steps along the noise levels, with real guidance from a second prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.family import Conditioning, Denoiser, SamplingSchedule


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt steers.

    `embedded` is the value that guidance-distilled networks take as an input. `real` mixes in a second prediction for
    the negative prompt (Ho and Salimans 2022, arXiv 2207.12598) from step `real_from` on; 1.0 leaves it out.
    """

    embedded: float = 3.5
    real: float = 1.0
    real_from: int = 0


def sample(
    denoiser: Denoiser,
    noise: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None,
    schedule: SamplingSchedule,
    guidance: Guidance,
) -> Tensor:
    """Turn noise into latents.

    Args:
        denoiser: In eval mode, on the device of `noise`.
        noise: Standard normal numbers with shape (batch, channels, height, width).
        conditioning: Of the prompts, stacked along the batch axis.
        negative: Of the negative prompts; needed where `guidance.real` is above 1.
        schedule: The noise levels.
        guidance: How strongly the prompt steers.
    """
    import torch

    latents = noise
    value = noise.new_full(noise.shape[:1], guidance.embedded, dtype=torch.float32) if denoiser.uses_guidance else None
    for step, (now, following) in enumerate(zip(schedule.sigmas[:-1], schedule.sigmas[1:], strict=True)):
        sigma = noise.new_full(noise.shape[:1], now, dtype=torch.float32)
        direction = denoiser.predict(latents, sigma, conditioning, value)
        if negative is not None and guidance.real > 1 and step >= guidance.real_from:
            away = denoiser.predict(latents, sigma, negative, value)
            direction = away + guidance.real * (direction - away)
        latents = latents + (following - now) * direction.to(latents.dtype)
    return latents
