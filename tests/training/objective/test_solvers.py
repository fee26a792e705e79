"""Solvers: the same steps as diffusers' own, and errors that shrink as fast as their order says."""

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from simpletuner.training.objective.solvers import SOLVERS, walked

WAY = [0.95, 0.8, 0.62, 0.5, 0.31, 0.2]


def curved(latents, sigma):
    """A direction that depends on place and level in no simple way."""
    return torch.sin(2 * latents) + sigma * latents.cos() - 0.3


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("name", "made"), [("unipc", UniPCMultistepScheduler), ("dpm", DPMSolverMultistepScheduler)])
def test_steps_equal_those_of_diffusers(name, made, order):
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "lower_order_final": False}
    scheduler = made(solver_order=order, **settings, **({"final_sigmas_type": "sigma_min"} if name == "dpm" else {}))
    scheduler.set_timesteps(len(WAY) - 1)
    scheduler.sigmas = torch.tensor(WAY, dtype=torch.float64)
    scheduler.timesteps = torch.arange(len(WAY) - 1, 0, -1)
    latents = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = walked(SOLVERS[name](order), latents, WAY, curved)
    for place, time in enumerate(scheduler.timesteps):
        latents = scheduler.step(curved(latents, WAY[place]), time, latents).prev_sample
    torch.testing.assert_close(found, latents, rtol=1e-6, atol=1e-7)


def gaussian(latents, sigma):
    """The exact direction for images with mean 2 and spread 0.5, whose way from noise is known in closed form."""
    spread = (1 - sigma) ** 2 * 0.25 + sigma**2
    slope = sigma - 0.25 * (1 - sigma)
    return slope / spread * (latents - 2 * (1 - sigma)) - 2


def exact(normal, sigma):
    return 2 * (1 - sigma) + math.sqrt((1 - sigma) ** 2 * 0.25 + sigma**2) * normal


@pytest.mark.parametrize(("name", "order", "rate"), [("euler", 1, 1), ("dpm", 1, 1), ("dpm", 2, 2), ("unipc", 2, 2.5)])
def test_twice_as_many_steps_halve_the_error_as_often_as_the_order_says(name, order, rate):
    normal = torch.tensor([1.3, -0.4], dtype=torch.float64)

    def error(steps):
        way = [0.9 + (0.2 - 0.9) * place / steps for place in range(steps + 1)]
        found = walked(SOLVERS[name](order), exact(normal, 0.9), way, gaussian)
        return float((found - exact(normal, 0.2)).abs().max())

    assert math.log2(error(64) / error(128)) == pytest.approx(rate, abs=0.6)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("way", [[1.0, 0.6, 0.3], [1.0, 0.5], [0.4, 0.2, 0.0], [1.0, 0.5, 0.0]])
def test_ways_may_begin_with_pure_noise_and_end_with_a_clean_image(name, way):
    latents = torch.tensor([0.7, -1.1], dtype=torch.float64)
    found = walked(SOLVERS[name](2), latents, way, lambda latents, sigma: latents * 0 + 3)
    torch.testing.assert_close(found, latents + 3 * (way[-1] - way[0]))  # a straight way is followed exactly


@pytest.mark.parametrize("name", SOLVERS)
def test_a_way_of_one_level_asks_nothing(name):
    latents = torch.ones(2)
    assert walked(SOLVERS[name](2), latents, [0.5], lambda latents, sigma: 1 / 0) is latents
