"""Every way from noise to a picture is that of diffusers' own schedulers; those of second order are the better ones."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from simpletuner.models.samplers import SAMPLERS

STOCK = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(),
    "dpm++": lambda: DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, algorithm_type="dpmsolver++", final_sigmas_type="zero"
    ),
    "unipc": lambda: UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, final_sigmas_type="zero"
    ),
}


def shifted(count: int) -> list[float]:
    even = [1 - number / count for number in range(count)]
    return [3 * one / (1 + 2 * one) for one in even] + [0.0]


def velocity(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """Of a network that is not linear, so that nothing is right by chance."""
    return torch.tanh(latents * 1.3) * (0.5 + sigma) + torch.cos(3 * latents) * 0.2


def walked(name: str, sigmas: list[float], start: torch.Tensor, network) -> torch.Tensor:
    solver, latents = SAMPLERS[name](), start
    for now, following in pairwise(sigmas):
        latents = solver.step(latents, network(latents, now), now, following)
    return latents


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_way_is_that_of_diffusers(name: str, count: int) -> None:
    sigmas = shifted(count)
    sigmas[0] = 1 - 1e-6  # where those of diffusers begin
    start = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stock = STOCK[name]()
    stock.set_timesteps(count)
    stock.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    latents = start
    for timestep, sigma in zip(stock.timesteps, sigmas[:-1], strict=True):
        latents = stock.step(velocity(latents, sigma), timestep, latents).prev_sample
    assert torch.allclose(walked(name, sigmas, start, velocity), latents.double(), atol=2e-5)


def spread(sigma: float) -> float:
    """Of noisy images, when images are normal numbers of mean 2 and deviation 0.5."""
    return ((1 - sigma) * 0.5) ** 2 + sigma**2


def exact(start: torch.Tensor, begin: float, end: float) -> torch.Tensor:
    """Where the way leads for such images: known without steps."""
    return 2 * (1 - end) + (start - 2 * (1 - begin)) * math.sqrt(spread(end) / spread(begin))


def normal(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """Noise minus image, as both are expected: for normal numbers that is known."""
    off = (latents - 2 * (1 - sigma)) / spread(sigma)
    return sigma * off - (2 + 0.25 * (1 - sigma) * off)


def error(name: str, count: int) -> float:
    """After steps that are of one length in the logarithm of the signal-to-noise ratio."""
    ways = [math.log(0.05 / 0.95) * (1 - 2 * number / count) for number in range(count + 1)]
    sigmas = [1 / (1 + math.exp(way)) for way in ways]
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    found = walked(name, sigmas, start, normal)
    return float((found - exact(start, sigmas[0], sigmas[-1])).abs().max())


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("dpm++", 2), ("unipc", 2)])
def test_twice_the_steps_lessen_the_error_as_the_order_says(name: str, order: int) -> None:
    assert math.log2(error(name, 100) / error(name, 200)) > order - 0.2


def test_solvers_of_second_order_come_nearer_in_as_many_steps() -> None:
    assert max(error("dpm++", 20), error("unipc", 20)) < error("euler", 20) / 4
