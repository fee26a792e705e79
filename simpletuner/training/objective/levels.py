"""Which noise level each sample is trained at: a form of drawing, then a shift, all in float32.

Every form is made from the same standard normal number of a sample, so one sample number means one noise level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.training import four_steps
from simpletuner.training.objective import beta, choosing, curve, weighting

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.training.options import Objective


@dataclass(frozen=True)
class Chances:
    """What the noise levels of a batch are made from."""

    normal: Tensor
    """Standard normal numbers with shape (batch,)."""
    samples: Sequence[int]
    """The numbers of the samples in the whole run."""
    offset: float = 0.0
    """Added to the normal numbers of a data set, for noisier or cleaner images."""


def drawn(options: Objective, chances: Chances, shift: float) -> Tensor:
    """The noise level of every sample, with shape (batch,), in float32."""
    form = FORMS[choosing.form(options)]
    sigma = form.draw(options, chances).to(chances.normal.dtype)
    if form.is_shifted:
        sigma = shifted(sigma, shift)
    low, high = options.min_timestep / 1000, options.max_timestep / 1000
    return sigma if (low, high) == (0, 1) else low + (high - low) * sigma


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1 for `shift` > 1: shift sigma / (1 + (shift - 1) sigma)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def logit_normal(normal: Tensor, scale: float) -> Tensor:
    """Noise levels that favour the middle: the sigmoid of normal numbers times `scale` (Esser et al. 2024)."""
    return (normal * scale).sigmoid()


def uniform(normal: Tensor) -> Tensor:
    """The uniform numbers in 0..1, in float64, that standard normal ones stand for."""
    import torch

    even: Tensor = torch.special.ndtr(normal.double())
    return even


def _sigmoid(options: Objective, chances: Chances) -> Tensor:
    return logit_normal(chances.normal + chances.offset, options.flow_sigmoid_scale)


def _uniform(options: Objective, chances: Chances) -> Tensor:
    return uniform(chances.normal)


def _beta(options: Objective, chances: Chances) -> Tensor:
    shape = (options.flow_beta_schedule_alpha, options.flow_beta_schedule_beta)
    even = uniform(chances.normal)
    return even.new_tensor([beta.quantile(share, *shape) for share in even.tolist()])


def _cubic(options: Objective, chances: Chances) -> Tensor:
    return curve.levels(uniform(chances.normal), options.flow_cubic_schedule_weights or ())


def _custom(options: Objective, chances: Chances) -> Tensor:
    known = chances.normal.new_tensor(options.custom_levels())
    if options.flow_timesteps_mode == "round-robin":
        return known[[sample % len(known) for sample in chances.samples]]
    return known[(uniform(chances.normal) * len(known)).long().clamp(max=len(known) - 1)]


def _fast(options: Objective, chances: Chances) -> Tensor:
    return four_steps.levels(chances.normal)


def _table(options: Objective, chances: Chances) -> Tensor:
    return weighting.levels(options, chances.normal, uniform(chances.normal))


def _mixflow(options: Objective, chances: Chances) -> Tensor:
    """More noise than clean images are drawn less: 1 - sqrt(u), as the ways of MixFlow are slowed down."""
    return 1 - uniform(chances.normal).sqrt()


@dataclass(frozen=True)
class Form:
    """One way of drawing noise levels."""

    draw: Callable[[Objective, Chances], Tensor]
    is_shifted: bool = True


FORMS = {
    "mixflow": Form(_mixflow),
    "custom": Form(_custom, is_shifted=False),
    "cubic": Form(_cubic),
    "table": Form(_table),
    "uniform": Form(_uniform),
    "beta": Form(_beta),
    "fast": Form(_fast, is_shifted=False),
    "sigmoid": Form(_sigmoid),
}
"""By the names that `choosing.form` gives."""
