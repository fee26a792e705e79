"""The noise levels and weights of sd-scripts: a table of a thousand levels, and how its entries are preferred."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from simpletuner.schema import words

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.training.options import Objective

TIMESTEP_SAMPLINGS = words(
    "way of drawing noise levels",
    {
        "sigma": "A table of a thousand levels, moved by flow_schedule_shift; flow_weighting_scheme prefers some.",
        "uniform": "All levels equally often, and not moved.",
        "sigmoid": "Levels around the middle more often, and not moved.",
        "shift": "Levels around the middle more often, moved by flow_schedule_shift.",
        "flux_shift": "Levels around the middle more often, moved by the size of the image.",
    },
)
"""The values of `timestep_sampling` in sd-scripts."""

WEIGHTING_SCHEMES = words(
    "weighting scheme",
    {
        "uniform": "All entries of the table equally often.",
        "none": "Another name of uniform.",
        "logit_normal": "Entries around flow_logit_mean more often; above 0 are the cleaner images.",
        "mode": "Entries in the middle more often, by flow_mode_scale.",
        "sigma_sqrt": "Nearly clean images count more in the loss, for flow_prediction_mode sigma_scaled.",
        "cosmap": "Images in the middle count more in the loss, for flow_prediction_mode sigma_scaled.",
    },
)


def levels(options: Objective, normal: Tensor, uniform: Tensor) -> Tensor:
    """The noise levels of the table before they are shifted; the table runs from noise to clean images."""
    scheme = PLACES.get(options.flow_weighting_scheme, _evenly)
    place = (scheme(options, normal.double(), uniform) * _ENTRIES).floor().clamp(0, _ENTRIES - 1)
    return (_ENTRIES - place) / _ENTRIES


def weights(options: Objective, sigma: Tensor) -> Tensor | None:
    """What the loss is multiplied with at these noise levels; nothing where all count the same."""
    if options.flow_prediction_mode != "sigma_scaled" or options.flow_weighting_scheme not in WEIGHTS:
        return None
    return WEIGHTS[options.flow_weighting_scheme](sigma)


def _evenly(options: Objective, normal: Tensor, uniform: Tensor) -> Tensor:
    return uniform


def _logit_normal(options: Objective, normal: Tensor, uniform: Tensor) -> Tensor:
    return (options.flow_logit_mean + options.flow_logit_std * normal).sigmoid()


def _mode(options: Objective, normal: Tensor, uniform: Tensor) -> Tensor:
    """Heavy tails and a mode in the middle (Esser et al. 2024, arXiv 2403.03206, section 3.1)."""
    return 1 - uniform - options.flow_mode_scale * ((math.pi / 2 * uniform).cos().square() - 1 + uniform)


def _sigma_sqrt(sigma: Tensor) -> Tensor:
    # The lowest level of the table is the limit: without one, a clean image would outweigh everything else.
    return sigma.clamp(min=1 / _ENTRIES) ** -2


def _cosmap(sigma: Tensor) -> Tensor:
    return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))


_ENTRIES = 1000

Place = Callable[["Objective", "Tensor", "Tensor"], "Tensor"]
PLACES: dict[str, Place] = {"logit_normal": _logit_normal, "mode": _mode}
"""Where in the table samples lie, in 0..1: made from a standard normal number and the uniform one beside it."""

Weigh = Callable[["Tensor"], "Tensor"]
WEIGHTS: dict[str, Weigh] = {"sigma_sqrt": _sigma_sqrt, "cosmap": _cosmap}
