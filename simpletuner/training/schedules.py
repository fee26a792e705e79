"""How the learning rate moves: each schedule is a pure function of the step, so there is no state to resume.

A schedule takes the progress after warm-up, from 0.0 to 1.0, and gives the share of the way from the end rate to the
peak rate. Warm-up is the same straight line for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from simpletuner.schema import Choice

LONG = 10_000
"""The steps after which inverse_sqrt has fallen to seven tenths, where neither lr_timescale nor a warm-up says."""


@dataclass(frozen=True)
class Shape:
    """What a schedule may depend on besides the progress."""

    power: float = 1.0
    cycles: int = 1
    steps: int = 1
    """How many steps there are after the warm-up."""
    decay_steps: int = 0
    """How many of the last steps warmup_stable_decay falls in."""
    timescale: int = LONG
    warmup_steps: int = 0
    rules: Sequence[tuple[int, float]] = ()
    """The steps before which piecewise_constant has a factor, in order."""
    last_factor: float = 1.0


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


def cosine_with_restarts(progress: float, shape: Shape) -> float:
    """Falls to `lr_end` along half a cosine wave, `lr_num_cycles` times, and jumps back to the peak in between."""
    turns = shape.cycles * progress
    # 50 times 0.58 is a little less than 29, which would be the end of a cycle instead of the beginning of the next.
    is_whole = math.isclose(turns, round(turns), rel_tol=1e-12)
    return cosine(1.0 if progress >= 1.0 else 0.0 if is_whole else turns % 1.0, shape)


def sine(progress: float, shape: Shape) -> float:
    """Swings between the peak and `lr_end` without jumps, falls `lr_num_cycles` times, and ends at `lr_end`."""
    return cosine((2 * shape.cycles - 1) * progress, shape)


def polynomial(progress: float, shape: Shape) -> float:
    """Falls along a power curve, set by `lr_power`, to `lr_end` at the last step."""
    return float((1.0 - progress) ** shape.power)


def rex(progress: float, shape: Shape) -> float:
    """Falls slowly at first and ever faster towards `lr_end` at the last step (Chen et al. 2021)."""
    return (1.0 - progress) / (1.0 - progress / 2)


def inverse_sqrt(progress: float, shape: Shape) -> float:
    """Falls like one over the square root of the steps, however long the run is; `lr_timescale` says how fast."""
    return math.sqrt(shape.timescale / (shape.timescale + progress * shape.steps))


def warmup_stable_decay(progress: float, shape: Shape) -> float:
    """Stays at the peak, then falls along half a cosine wave to `lr_end` in the last `lr_decay_steps`."""
    left = (1.0 - progress) * shape.steps
    falling = max(1, min(shape.decay_steps, shape.steps))  # it cannot begin before the warm-up is over
    return cosine(max(0.0, 1.0 - left / falling), shape)


def piecewise_constant(progress: float, shape: Shape) -> float:
    """Stays at one rate after the other, as `lr_step_rules` says."""
    step = round(shape.warmup_steps + progress * shape.steps)
    return next((factor for until, factor in shape.rules if step < until), shape.last_factor)


@dataclass(frozen=True)
class Schedule:
    """One schedule by name."""

    share: Callable[[float, Shape], float]
    uses: frozenset[str] = field(default_factory=frozenset)
    """The options that it depends on, besides the peak and the warm-up."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.share.__doc__)  # what help and documentation show of a choice

    @property
    def falls_to_end(self) -> bool:
        """Whether it goes to `lr_end`, and not to zero."""
        return "lr_end" in self.uses


def _schedule(share: Callable[[float, Shape], float], *uses: str) -> Schedule:
    return Schedule(share, frozenset(uses))


LR_SCHEDULES: Choice[Schedule] = Choice(
    "learning rate schedule",
    {
        "constant": _schedule(constant),
        "constant_with_warmup": _schedule(constant_with_warmup),
        "linear": _schedule(linear),
        "cosine": _schedule(cosine, "lr_end"),
        "cosine_with_restarts": _schedule(cosine_with_restarts, "lr_end", "lr_num_cycles"),
        "sine": _schedule(sine, "lr_end", "lr_num_cycles"),
        "polynomial": _schedule(polynomial, "lr_end", "lr_power"),
        "rex": _schedule(rex, "lr_end"),
        "inverse_sqrt": _schedule(inverse_sqrt, "lr_timescale"),
        "warmup_stable_decay": _schedule(warmup_stable_decay, "lr_end", "lr_decay_steps"),
        "piecewise_constant": _schedule(piecewise_constant, "lr_step_rules"),
    },
    aliases={"cosine_with_min_lr": "cosine", "wsd": "warmup_stable_decay"},
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
    cycles: int = 1
    decay_steps: int = 0
    timescale: int | None = None
    rules: Sequence[tuple[int, float]] = ()
    last_factor: float = 1.0

    def at(self, step: int) -> float:
        """The rate used for optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        steps = max(1, self.total_steps - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / steps)
        schedule = LR_SCHEDULES[self.name]
        end = self.end if schedule.falls_to_end else 0.0
        return end + (self.peak - end) * schedule.share(progress, self._shape(steps))

    def _shape(self, steps: int) -> Shape:
        return Shape(
            power=self.power,
            cycles=self.cycles,
            steps=steps,
            decay_steps=self.decay_steps,
            timescale=self.timescale or self.warmup_steps or LONG,
            warmup_steps=self.warmup_steps,
            rules=self.rules,
            last_factor=self.last_factor,
        )


def read_rules(text: str) -> tuple[tuple[tuple[int, float], ...], float]:
    """The steps and factors of rules such as ``1:100,0.1:200,0.01``, and the factor after the last of them.

    Raises:
        ValueError: They are not of this form; the message says which is not.
    """
    *parts, last = [part.strip() for part in text.split(",")]
    rules = tuple(_rule(part) for part in parts)
    steps = [step for step, _ in rules]
    if steps != sorted(set(steps)):
        raise ValueError("has steps that do not rise; write them in order, such as 1:100,0.1:200,0.01")
    return rules, _number(last, last)


def _rule(part: str) -> tuple[int, float]:
    factor, colon, step = part.partition(":")
    if not colon or not step.strip().isdecimal():
        raise ValueError(f"'{part}' is not of the form factor:step; an example is 1:100,0.1:200,0.01")
    return int(step), _number(factor, part)


def _number(text: str, part: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"'{part}' has no factor in it; an example is 1:100,0.1:200,0.01") from error
    if not 0 <= number < math.inf:
        raise ValueError(f"'{part}' has a factor that is not a number of at least 0")
    return number
