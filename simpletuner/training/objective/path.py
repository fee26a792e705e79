"""The straight way between an image and noise, and what the network is asked about a point on it.

Noise level ``sigma`` lies in 0..1; 1 is pure noise. Between an image x and noise e the network learns the direction of
the way (Lipman et al. 2022, arXiv 2210.02747):

    x_sigma = (1 - sigma) x + sigma e        velocity = e - x
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simpletuner.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor


def noised(image: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point at `sigma`, with shape (batch,), on the way from image to noise."""
    share = per_sample(sigma, image)
    return (1 - share) * image + share * noise


def velocity(image: Tensor, noise: Tensor) -> Tensor:
    """What the network should answer."""
    return noise - image


def slowed(sigma: Tensor, uniform: Tensor, gamma: float) -> Tensor:
    """Where a sample really is when the network is told `sigma`: nearer to noise, by a drawn share of `gamma`."""
    return sigma + uniform.to(sigma) * gamma * (1 - sigma)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One number for each sample, with shape (batch,), ready to be multiplied with (batch, channels, height, width)."""
    return values.to(like.dtype).view(-1, 1, 1, 1)


def _raw(answer: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """What the network says is the direction from the image to the noise, as FLUX.1 was trained."""
    return answer


def _additive(answer: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """The noisy picture is added to what the network says; only to repeat runs of sd-scripts."""
    return answer + noisy


def _sigma_scaled(answer: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """The picture that follows from what the network says is compared; only to repeat runs of sd-scripts."""
    return noisy - per_sample(sigma, noisy) * answer


Prediction = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
PREDICTIONS: Choice[Prediction] = Choice(
    "prediction mode", {"raw": _raw, "additive": _additive, "sigma_scaled": _sigma_scaled}
)
"""What is compared with the velocity: made from the network's answer, what it saw, and the noise level."""
