"""Watches the numbers of training: what is not finite never reaches the weights, and jumps of the loss are told."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from simpletuner.errors import TrainingError
from simpletuner.progress import Notice, Reporter

STOP, SKIP = "stop", "skip"
_IN_A_ROW = 10
"""So many steps that are left out one after the other are no accident."""
_WINDOW, _ENOUGH = 100, 20
"""How many losses a new one is compared with, at most and at least."""
_QUIET = 100
"""Steps after a jump in which no other one is told."""


class Seen(Protocol):
    """A batch that was worked on."""

    @property
    def loss(self) -> float:
        """Its mean loss."""

    @property
    def dataset(self) -> str:
        """The data set that it is of."""

    @property
    def keys(self) -> Sequence[str]:
        """Its images."""


@dataclass
class Guards:
    """Decides about each step before the weights change."""

    non_finite: str
    """What is done about numbers that are not finite: stop or skip."""
    spike: float
    """A loss so many times above the usual one is told; 0 for none."""
    reporter: Reporter
    advice: Sequence[str] = ()
    """What would make training steadier and is not used, cheapest first."""
    skipped: int = 0
    """Steps that were left out since the last one that was not."""
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _told_at: int = -_QUIET

    def admit(self, step: int, batches: Sequence[Seen], norm: float) -> bool:
        """Whether the weights may change.

        Args:
            step: The number of the step, from 1.
            batches: What it is made from.
            norm: The norm of its gradient.

        Raises:
            TrainingError: A number is not finite, and the run is to stop then.
        """
        broken = [one for one in batches if not math.isfinite(one.loss)]
        if broken or not math.isfinite(norm):
            self._not_finite(step, "loss" if broken else "gradient", broken or batches)
            return False
        self.skipped = 0
        self._watch(step, batches)
        return True

    def _not_finite(self, step: int, what: str, batches: Sequence[Seen]) -> None:
        told = f"the {what} of step {step} is not a finite number; {_images(batches)}"
        if self.non_finite != SKIP:
            raise TrainingError(
                f"{told}. {self._remedy()} To leave out such steps instead, set non_finite_action to skip. The last "
                f"checkpoint is unharmed."
            )
        self.skipped += 1
        if self.skipped >= _IN_A_ROW:
            raise TrainingError(f"{told}, and so were the {_IN_A_ROW - 1} steps before, all left out. {self._remedy()}")
        self.reporter.report(Notice(f"{told}. The step is left out."))

    def _watch(self, step: int, batches: Sequence[Seen]) -> None:
        loss = sum(one.loss for one in batches) / len(batches)
        usual = median(self._recent) if len(self._recent) >= _ENOUGH else math.inf
        self._recent.append(loss)
        if self.spike and loss > self.spike * usual and step - self._told_at >= _QUIET:
            self._told_at = step
            self.reporter.report(
                Notice(
                    f"the loss of step {step} jumped to {loss:.3g}, from {usual:.3g} before; {_images(batches)}. Once "
                    f"is no harm. If it stays there: {self._remedy()}"
                )
            )

    def _remedy(self) -> str:
        return f"What would help, cheapest first: {'; '.join(self.advice)}." if self.advice else "Look at the images."


def _images(batches: Sequence[Seen]) -> str:
    by_set: dict[str, list[str]] = {}
    for one in batches:
        by_set.setdefault(one.dataset, []).extend(one.keys)
    told = [f"{', '.join(dict.fromkeys(keys))} of data set '{id}'" for id, keys in by_set.items()]
    return f"the images were {', and '.join(told)}"
