"""Everything that can go wrong for a reason the user can act on.

* SimpleTunerError
  x ConfigError      the config cannot be used as it is; carries every problem at once
  x DataError        a data set is missing, empty or unreadable
  x ModelError       weights are missing, gated or do not fit the family
  x DoesNotFit       out of memory; names the options that are not pulled yet
  x CheckpointError  a checkpoint is incomplete or from another run
  x TrainingError    the loss or a gradient is not a number any more
  x Elsewhere        another process of the run has failed, and this one ends with it
  x Stopped          somebody asked the run to stop; it can go on from its last checkpoint
  x PublishError     the Hub refused the upload; the files are safe on disk

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from signal import Signals


class SimpleTunerError(Exception):
    """Base of every error whose message tells the user what to change."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: where it is, and what to change."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConfigError(SimpleTunerError):
    """The config cannot be used as it is; lists every problem at once."""

    def __init__(self, path: str, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        super().__init__("\n".join([f"{path} has {count}:", *(f"  {problem}" for problem in self.problems)]))


class DataError(SimpleTunerError):
    """A data set is missing, empty or unreadable."""


class ModelError(SimpleTunerError):
    """Weights are missing, gated, or belong to another model family."""


class DoesNotFit(SimpleTunerError):
    """The device ran out of memory; the message names the options that would help, cheapest first."""


class CheckpointError(SimpleTunerError):
    """A checkpoint is incomplete, or comes from a run with other shapes or options."""


class TrainingError(SimpleTunerError):
    """Training cannot go on: the loss or a gradient is not a finite number."""


class Elsewhere(SimpleTunerError):
    """Another process of the run has failed and says why; this one ends with it."""


class Stopped(SimpleTunerError):
    """The run was asked to stop, by Ctrl-C or a signal; what it has learned is in a checkpoint."""

    def __init__(self, signal: Signals, step: int, checkpoint: str) -> None:
        self.signal = signal
        super().__init__(
            f"stopped after step {step} by {signal.name}; everything is in {checkpoint}. Start the same command again "
            f"to go on from there."
        )


class PublishError(SimpleTunerError):
    """The Hub did not take the upload; the files are safe on disk."""
