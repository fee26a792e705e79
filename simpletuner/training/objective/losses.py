"""How far an answer is off: a distance for every number, weights, and the mean of each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simpletuner.schema import Choice
from simpletuner.training.objective.path import per_sample

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.training.options import Objective


def distances(options: Objective, prediction: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """How far every number of a prediction is off, in float32 or better; `sigma` has the shape (batch,)."""
    difference = _difference(prediction, target)
    bend = HUBER_SCHEDULES[options.huber_schedule](options.huber_c, per_sample(sigma, difference))
    return LOSSES[options.loss_type](difference, options.huber_scale * bend)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of every sample, with shape (batch,), in float32 or better."""
    return mean(_difference(prediction, target).square())


def mean(distances: Tensor, mask: Tensor | None = None, *, by_area: bool = False) -> Tensor:
    """The mean of every sample, with shape (batch,).

    A mask in 0..1 with shape (batch, 1, height, width) multiplies each distance; the mean is still that over all of
    the latents, as in SimpleTuner and sd-scripts, so a small mask makes a small loss. With `by_area` it is the mean
    over what the mask shows, and nothing where it shows nothing.
    """
    import torch

    if mask is None:
        return distances.flatten(1).mean(1)
    shown = (distances * mask).flatten(1)
    if not by_area:
        return shown.mean(1)
    area = mask.expand_as(distances).flatten(1).sum(1)
    return shown.sum(1) / area.clamp(min=torch.finfo(area.dtype).tiny)


def _difference(prediction: Tensor, target: Tensor) -> Tensor:
    import torch

    wide = torch.promote_types(prediction.dtype, torch.float32)
    return prediction.to(wide) - target.to(wide)


def _squared(difference: Tensor, bend: Tensor) -> Tensor:
    """The squared difference."""
    return difference.square()


def _absolute(difference: Tensor, bend: Tensor) -> Tensor:
    """The difference without its sign, for data with many mistakes."""
    return difference.abs()


def _huber(difference: Tensor, bend: Tensor) -> Tensor:
    """The squared difference where it is small, and a straight line where it is large, with its slope limited too."""
    return bend * _smooth(difference, bend)


def _smooth(difference: Tensor, bend: Tensor) -> Tensor:
    """A straight line for large differences, rounded where they are small."""
    square = difference.square()
    # The same as 2 (sqrt(d^2 + c^2) - c), which would lose all digits of small differences.
    return 2 * square / ((square + bend.square()).sqrt() + bend)


Loss = Callable[["Tensor", "Tensor"], "Tensor"]
LOSSES: Choice[Loss] = Choice("loss", {"l2": _squared, "l1": _absolute, "huber": _huber, "smooth_l1": _smooth})
"""Made from the differences, and from the size at which the loss of a sample bends."""


def _constant(size: float, sigma: Tensor) -> Tensor:
    """The same for all noise levels."""
    import torch

    return torch.full_like(sigma, size)


def _exponential(size: float, sigma: Tensor) -> Tensor:
    """1 for clean images, falling to huber_c for pure noise by equal factors."""
    return size**sigma


def _by_signal(size: float, sigma: Tensor) -> Tensor:
    """1 for clean images, falling to huber_c for pure noise by the ratio of signal to noise."""
    # In diffusion, c = (1 - size) / (1 + noise / signal)^2 + size; here the noise is sigma and the signal 1 - sigma.
    return (1 - size) * (1 - sigma) ** 2 + size


Bend = Callable[[float, "Tensor"], "Tensor"]
HUBER_SCHEDULES: Choice[Bend] = Choice(
    "Huber schedule", {"snr": _by_signal, "exponential": _exponential, "constant": _constant}
)
