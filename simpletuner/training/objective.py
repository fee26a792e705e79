"""Flow matching: which noise level a sample is trained at, what the network sees, what it should answer.

Pure functions over tensors. Noise level ``sigma`` lies in 0..1; 1 is pure noise. Between an image x and noise e the
path is a straight line, and the network learns its direction (Lipman et al. 2022, arXiv 2210.02747):

    x_sigma = (1 - sigma) x + sigma e        velocity = e - x
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def logit_normal(normal: Tensor, scale: float) -> Tensor:
    """Noise levels that favour the middle: the sigmoid of normal numbers times `scale` (Esser et al. 2024)."""
    return (normal * scale).sigmoid()


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1 for `shift` > 1: shift sigma / (1 + (shift - 1) sigma)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def noised(image: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point at `sigma`, with shape (batch,), on the way from image to noise."""
    share = sigma.to(image.dtype).view(-1, 1, 1, 1)
    return (1 - share) * image + share * noise


def velocity(image: Tensor, noise: Tensor) -> Tensor:
    """What the network should answer."""
    return noise - image


def squared_error(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of every sample, with shape (batch,), in float32 or better.

    A mask in 0..1 with shape (batch, 1, height, width) multiplies each error; the mean is still that over all of the
    latents, as in SimpleTuner and sd-scripts, so a small mask makes a small loss.
    """
    import torch

    wide = torch.promote_types(prediction.dtype, torch.float32)
    errors = (prediction.to(wide) - target.to(wide)).square()
    return (errors if mask is None else errors * mask).flatten(1).mean(1)
