"""How the learning rate moves: each schedule is a pure function of the step, so there is no state to resume.

A schedule takes the progress after warm-up, from 0.0 to 1.0, and gives the share of the way from the end rate to the
peak rate. Warm-up is the same straight line for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from simpletuner.schema import Choice


@dataclass(frozen=True)
class Shape:
    """What a schedule may depend on besides the progress."""

    power: float = 1.0


Schedule = Callable[[float, Shape], float]


def constant(progress: float, shape: Shape) -> float:
    """Stays at the peak."""
    return 1.0


def constant_with_warmup(progress: float, shape: Shape) -> float:
    """Rises during the warm-up steps, then stays at the peak."""
    return 1.0


def linear(progress: float, shape: Shape) -> float:
    """Falls in a straight line to zero at the last step."""
    return 1.0 - progress


def cosine(progress: float, shape: Shape) -> float:
    """Falls along half a cosine wave, slowly at both ends, to `lr_end` at the last step."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def polynomial(progress: float, shape: Shape) -> float:
    """Falls along a power curve, set by `lr_power`, to `lr_end` at the last step."""
    return float((1.0 - progress) ** shape.power)


LR_SCHEDULES: Choice[Schedule] = Choice(
    "learning rate schedule",
    {
        "constant": constant,
        "constant_with_warmup": constant_with_warmup,
        "linear": linear,
        "cosine": cosine,
        "polynomial": polynomial,
    },
    later={"cosine_with_restarts": "use cosine", "sine": "use cosine"},
)


@dataclass(frozen=True)
class LearningRate:
    """The learning rate at every step of a run."""

    name: str
    peak: float
    end: float
    warmup_steps: int
    total_steps: int
    power: float = 1.0

    def at(self, step: int) -> float:
        """The rate used for optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        end = 0.0 if self.name == "linear" else self.end
        return end + (self.peak - end) * LR_SCHEDULES[self.name](progress, Shape(self.power))
