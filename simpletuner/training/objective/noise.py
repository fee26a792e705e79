"""Other noise than independent normal numbers: offsets of channels, coarse layers, and more for the input alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simpletuner.training.draws import Draws
from simpletuner.training.objective.path import per_sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from simpletuner.training.options import Objective


def prepared(options: Objective, noise: Tensor, image: Tensor, draws: Draws) -> Tensor:
    """The noise of a batch as its target is made of, with shape (batch, channels, height, width)."""
    if options.offset_noise:
        noise = noise + _offset(options, image, draws).to(noise)
    return _layered(options, noise, draws) if options.multires_noise_iterations else noise


def perturbed(options: Objective, noise: Tensor, draws: Draws, step: int) -> Tensor:
    """The noise that the network sees: somewhat more than it is asked to find (Ning et al. 2023, arXiv 2301.11706)."""
    strength = perturbation(options, step)
    if strength == 0:
        return noise
    more = strength * draws.normal("input perturbation", noise.shape[1:])
    if options.input_perturbation_random:
        more = per_sample(draws.uniform("input perturbation strength"), more) * more
    return noise + more.to(noise)


def perturbation(options: Objective, step: int) -> float:
    """How strongly the input is perturbed at a step: it fades away in a straight line where that is asked for."""
    fading = options.input_perturbation_steps
    left = max(0.0, 1 - step / fading) if fading else 1.0
    return options.input_perturbation * left


def _offset(options: Objective, image: Tensor, draws: Draws) -> Tensor:
    """The number that is added to each channel, with shape (batch, channels, 1, 1)."""
    import torch

    bright = image.float().cpu().mean((2, 3), keepdim=True).abs()
    strength = torch.full_like(bright, options.noise_offset)
    if options.noise_offset_random_strength:
        strength = strength * per_sample(draws.uniform("noise offset strength"), strength)
    strength = (strength + options.adaptive_noise_scale * bright).clamp(min=0)
    is_used = draws.uniform("noise offset chance") < options.noise_offset_probability
    return per_sample(is_used, strength) * strength * draws.normal("noise offset", (image.shape[1], 1, 1))


def _layered(options: Objective, noise: Tensor, draws: Draws) -> Tensor:
    import torch

    samples = zip(noise, draws.generators("coarse noise"), strict=True)
    return torch.stack([_with_layers(options, one, dice) for one, dice in samples])


def _with_layers(options: Objective, noise: Tensor, dice: torch.Generator) -> Tensor:
    """One sample's noise with coarser and coarser noise on it, as strong as before; all draws are made by `dice`."""
    import torch
    from torch.nn.functional import interpolate

    channels, *size = noise.shape
    for layer in range(options.multires_noise_iterations):
        ratio = 2 + 2 * float(torch.rand(1, generator=dice))
        coarse = [max(1, int(edge / ratio**layer)) for edge in size]
        grain = torch.randn(1, channels, *coarse, generator=dice)
        fine = interpolate(grain, size=tuple(size), mode="bilinear")[0]
        noise = noise + (fine * options.multires_noise_discount**layer).to(noise)
        if 1 in coarse:
            break
    return noise / noise.std()
