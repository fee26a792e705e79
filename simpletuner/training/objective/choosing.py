"""Which way of drawing noise levels the options ask for, and what decides the shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from simpletuner.training.options import Objective

Shift = Literal["none", "static", "automatic"]


def form(options: Objective) -> str:
    """The name of the way of drawing: a key of `levels.FORMS`."""
    named = options.flow_timestep_sampling
    asked = asking(options)
    if named is None:
        return FORMS_BY_OPTION[asked[0]] if asked else "sigmoid"
    return {"sigma": "table", "uniform": "uniform"}.get(named, "sigmoid")


def asking(options: Objective) -> list[str]:
    """The options of SimpleTuner that ask for a way of drawing, the one that wins first."""
    return [option for option in FORMS_BY_OPTION if options.__dict__[option]]


def shifting(options: Objective) -> Shift:
    """Where the shift comes from: it is 1, flow_schedule_shift, or follows from the size of the image."""
    named = options.flow_timestep_sampling
    if named is not None:
        return _SHIFTS[named]
    return "automatic" if options.flow_schedule_auto_shift else "static"


FORMS_BY_OPTION = {
    "mixflow_enabled": "mixflow",
    "flow_custom_timesteps": "custom",
    "flow_cubic_schedule_weights": "cubic",
    "flow_use_uniform_schedule": "uniform",
    "flow_use_beta_schedule": "beta",
    "flux_fast_schedule": "fast",
}
"""In the order in which SimpleTuner looks at them."""

_SHIFTS: dict[str, Shift] = {
    "sigma": "static",
    "uniform": "none",
    "sigmoid": "none",
    "shift": "static",
    "flux_shift": "automatic",
}
