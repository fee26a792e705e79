"""When something is done on the way: after so many steps, at the end of so many epochs, or after so many minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


def _none_over(step: int) -> int:
    return 0


@dataclass(frozen=True)
class Occasions:
    """The steps after which something is done; they are known before the run begins."""

    steps: int = 0
    """It is done every so many steps; 0 for never."""
    epochs: int = 0
    """It is done after the last step of every so many epochs; 0 for never."""
    epochs_over: Callable[[int], int] = _none_over
    """How many epochs are over after so many steps."""

    def falls_on(self, step: int) -> bool:
        """Whether it is done after a step; steps are counted from 1."""
        return (self.steps > 0 and step % self.steps == 0) or self._ends_epochs(step)

    def _ends_epochs(self, step: int) -> bool:
        if not self.epochs:
            return False
        return self.epochs_over(step) // self.epochs > self.epochs_over(step - 1) // self.epochs


@dataclass
class Timer:
    """Tells when so many minutes have passed since something was done last."""

    minutes: float = 0
    """0 for never."""
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """It was done just now."""
        self.began = self.clock()

    def is_over(self) -> bool:
        """Whether it is time to do it again."""
        return self.minutes > 0 and self.clock() - self.began >= 60 * self.minutes
