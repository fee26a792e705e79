"""What happens in a run, as values, and those who read them: the console, a file, a tracker, a test.

The reporter is the only way out: nothing in the project prints. An event is a frozen dataclass; a reader ignores the
events it has no use for. The web page is one more reader: it follows ``progress.jsonl``.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Protocol

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins; `config` is what was resolved, flat and without secrets."""

    output: str
    config: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage with a known amount of work begins, such as the caching of latents."""

    stage: str
    total: int


@dataclass(frozen=True)
class Advanced(Event):
    """The current stage got `count` pieces of work further."""

    count: int


@dataclass(frozen=True)
class Notice(Event):
    """Something the user should know that does not stop the run."""

    text: str


@dataclass(frozen=True)
class DatasetReady(Event):
    """One data set was scanned, filtered and sorted into buckets."""

    id: str
    images: int
    buckets: int
    skipped: int
    skip_list: str = ""


@dataclass(frozen=True)
class TrainingStarted(Event):
    """The loop begins; `step` is larger than 0 when it resumes."""

    step: int
    total_steps: int
    epochs: int
    trainable_parameters: int


@dataclass(frozen=True)
class StepDone(Event):
    """One optimizer step was made."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    samples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImagesSaved(Event):
    """Validation drew pictures; `sheet` shows them beside what the base model drew."""

    step: int
    paths: tuple[str, ...]
    prompts: tuple[str, ...]
    sheet: str


@dataclass(frozen=True)
class PreviewDrawn(Event):
    """A small picture shows what a validation picture is expected to become, after one of the steps it takes."""

    step: int
    prompt: str
    number: int
    steps: int
    path: str


@dataclass(frozen=True)
class Scored(Event):
    """Validation pictures were compared with their prompts: a score for each, and what is told of all."""

    step: int
    scores: Mapping[str, float]
    summary: Mapping[str, float]


@dataclass(frozen=True)
class Evaluated(Event):
    """The loss was measured on eval data sets; `losses` holds the mean of each by its id.

    With a chance of 95 %, the mean over all images of that kind is within `margins` of it.
    """

    step: int
    losses: Mapping[str, float]
    margins: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Published(Event):
    """The result was uploaded."""

    url: str


@dataclass(frozen=True)
class Failed(Event):
    """The run ended with an error."""

    message: str


@dataclass(frozen=True)
class Paused(Event):
    """The run ended because somebody asked it to; it can go on from its last checkpoint."""

    message: str


@dataclass(frozen=True)
class Finished(Event):
    """The run ended well; `folder` holds the result."""

    folder: str
    step: int


class Reporter(Protocol):
    """Takes events and tells somebody about them."""

    def report(self, event: Event) -> None:
        """Tell about one event. Must never raise for reasons outside this process."""

    def close(self) -> None:
        """Write out what is still buffered."""


class Recorded:
    """A reporter that only remembers; the fake for tests."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)

    def close(self) -> None:
        """Nothing to write."""

    def texts(self) -> list[str]:
        """The text of every notice so far."""
        return [event.text for event in self.events if isinstance(event, Notice)]


class Several:
    """Hands every event to several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def report(self, event: Event) -> None:
        """Tell all of them, in order."""
        for reporter in self._reporters:
            reporter.report(event)

    def close(self) -> None:
        """Close all of them."""
        for reporter in self._reporters:
            reporter.close()


class JsonLines:
    """Appends one JSON object per event to a file that others can follow while it grows."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._file: IO[str] | None = None
        self._is_broken = False

    def report(self, event: Event) -> None:
        """Append the event as one line and flush it; a disk that does not take it is warned of once."""
        if self._is_broken:
            return
        line = {"event": type(event).__name__, "time": round(self._clock(), 3), **asdict(event)}
        try:
            file = self._opened()
            file.write(json.dumps(line, default=str, ensure_ascii=False) + "\n")
            file.flush()
        except OSError as error:
            self._is_broken = True
            logger.warning("%s is not written any more: %s", self._path, error)

    def _opened(self) -> IO[str]:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        return self._file

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # what could not be written was warned of
                self._file.close()
            self._file = None
