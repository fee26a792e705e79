"""The noise levels with which FLUX.1 is sampled, from the scheduler that comes with the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simpletuner.models.family import SamplingSchedule
from simpletuner.models.flux.loading import scheduler_source
from simpletuner.models.sources import loading

if TYPE_CHECKING:
    from simpletuner.models.family import Weights


def schedule(weights: Weights, steps: int, height: int, width: int) -> SamplingSchedule:
    """Noise levels for latents of this height and width, as the stock pipeline of diffusers uses them."""
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    with loading("The scheduler", weights.base):
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(
            scheduler_source(weights), subfolder="scheduler", revision=weights.revision
        )
    config = scheduler.config
    mu = calculate_shift(
        (height // 2) * (width // 2),
        config.base_image_seq_len,
        config.max_image_seq_len,
        config.base_shift,
        config.max_shift,
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return SamplingSchedule(tuple(float(sigma) for sigma in scheduler.sigmas))
