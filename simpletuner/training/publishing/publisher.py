"""Uploads beside the training: checkpoints while it goes on, the result at its end; no failure ends the run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

from simpletuner.errors import DataError, PublishError
from simpletuner.progress import CheckpointSaved, Event, Notice, Published, Reporter
from simpletuner.training.publishing import contents
from simpletuner.training.publishing.delivery import deliver_waiting
from simpletuner.training.publishing.outbox import FOLDER, Content, Label, Outbox
from simpletuner.training.scripts import Script

_IN_TRAINING, _AT_THE_END = 30.0, 60.0
"""For how many seconds a Hub that does not answer is asked again."""
_FAREWELL = 2.0
_SLOWEST = 500_000
"""Bytes in a second; an upload that is slower does not hold up the end of a run."""


@dataclass(frozen=True)
class Publication:
    """What is uploaded, and under which name."""

    label: Label
    texts: Callable[[int], dict[str, str]]
    """The texts that go with the weights of a step, by their path in the repository."""
    sends_checkpoints: bool = False


class Publisher:
    """Follows a run, and uploads what it makes."""

    def __init__(
        self, publication: Publication, folder: Path, reporter: Reporter, script: Script | None = None
    ) -> None:
        """Send what an earlier run left.

        Args:
            publication: What is uploaded.
            folder: The output folder of the run.
            reporter: Told what happened, by the thread of the run.
            script: Started after each upload, by the thread of the run too.
        """
        self._publication = publication
        self._folder = folder
        self._outbox = Outbox(folder / FOLDER)
        self._reporter = reporter
        self._script = script
        self._news: SimpleQueue[Event | tuple[Label, str]] = SimpleQueue()
        self._wake = threading.Event()
        self._is_closing = False
        self._last_failure = ""
        self._address: str | None = None
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        self._thread.start()
        self._wake.set()  # what an earlier run left

    def report(self, event: Event) -> None:
        """Queue a checkpoint, and pass on what happened to earlier ones."""
        if isinstance(event, CheckpointSaved) and self._publication.sends_checkpoints:
            path = Path(event.path)
            self._put(event.step, contents.of_checkpoint(path), f"Step {event.step}", source=path.name)
        self._tell()

    def finish(self, step: int) -> str | None:
        """Upload the result, and wait until everything has arrived or is not going to; returns where it is then."""
        self._put(step, contents.of_result(self._folder, step), f"Trained for {step} steps")
        self._stop(_AT_THE_END + self._bytes() / _SLOWEST)
        if self._script is not None:
            self._script.wait()
        left = len(self._outbox.waiting())
        if left:
            self._reporter.report(Notice(_left(left, self._folder)))
        return None if left else self._address

    def close(self) -> None:
        """Do not hold up the end of a run that failed: what has not arrived yet waits on disk."""
        self._stop(_FAREWELL)

    def _stop(self, seconds: float) -> None:
        self._is_closing = True
        self._wake.set()
        self._thread.join(seconds)
        self._tell()

    def _put(self, step: int, files: dict[str, Path], message: str, *, source: str = "") -> None:
        label = replace(self._publication.label, message=message, step=step, source=source)
        texts = {name: text for name, text in self._publication.texts(step).items() if name not in files}
        try:
            self._outbox.put(label, Content(files, texts))
        except DataError as error:
            self._reporter.report(Notice(f"{message} is not uploaded: {error}"))
        self._wake.set()

    def _work(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait()
            self._wake.clear()
            is_last = self._is_closing
            self._drain()

    def _drain(self) -> None:
        for sent in deliver_waiting(self._outbox, lambda: _AT_THE_END if self._is_closing else _IN_TRAINING):
            if isinstance(sent, PublishError):
                self._fail(str(sent))
            else:
                self._address = sent[1]
                self._news.put(sent)

    def _fail(self, text: str) -> None:
        """The same failure is told once."""
        if text != self._last_failure:
            self._last_failure = text
            self._news.put(Notice(text))

    def _tell(self) -> None:
        while not self._news.empty():
            news = self._news.get()
            if isinstance(news, Event):
                self._reporter.report(news)
            else:
                self._arrived(*news)

    def _arrived(self, label: Label, address: str) -> None:
        self._reporter.report(Published(address))
        if self._script is not None:
            self._script.start(self._folder / label.source, label.step, remote=address)

    def _bytes(self) -> int:
        return sum(parcel.bytes() for parcel in self._outbox.waiting())


def _left(count: int, folder: Path) -> str:
    what = "1 upload waits" if count == 1 else f"{count} uploads wait"
    return f"{what} in '{folder / FOLDER}'. Send again with: simpletuner push {folder}"
