"""The run on a terminal: a bar for each stage, a line for each thing that matters; plain lines into a file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import click
from rich.console import Console as Terminal
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from simpletuner.progress import (
    Advanced,
    CheckpointSaved,
    DatasetReady,
    Evaluated,
    Event,
    ImagesSaved,
    Notice,
    Published,
    RunStarted,
    Scored,
    StageStarted,
    StepDone,
    TrainingStarted,
)

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BEFORE_PACE = 2.0


@dataclass
class _Stage:
    name: str
    total: int
    done: int = 0
    said: float = field(default_factory=time.monotonic)
    begun: float = field(default_factory=time.monotonic)
    before: int = 0
    """How much was done when this began."""

    def pace(self) -> str:
        """How fast it goes, and how long it will still take."""
        seconds, done = time.monotonic() - self.begun, self.done - self.before
        if seconds < _SECONDS_BEFORE_PACE or not done:
            return ""
        rate = done / seconds
        each = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        left = self.total - self.done
        return f"{each}, {timedelta(seconds=round(left / rate))} left" if left > 0 else each


class _Bars(Progress):
    """A bar with facts below it: a terminal of the usual width has no room for them beside it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, then the facts of its stage."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["facts"]:
                yield Text(task.fields["facts"], no_wrap=True, overflow="ellipsis")


class Console:
    """Prints events; on a terminal with moving bars."""

    def __init__(self, terminal: Terminal | None = None) -> None:
        self._terminal = terminal or Terminal(highlight=False)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage: _Stage | None = None
        self._recent: deque[StepDone] = deque(maxlen=20)

    def report(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, StageStarted):
            self._begin(event.stage, event.total)
        elif isinstance(event, Advanced):
            self._advance(event.count)
        elif isinstance(event, TrainingStarted):
            self._end()
            self._say(f"training: {event.trainable_parameters / 1e6:.2f} M weights, {event.total_steps} steps")
        elif isinstance(event, StepDone):
            self._step(event)
        elif (line := _line(event)) is not None:
            self._say(line)

    def close(self) -> None:
        """Take the bars away."""
        self._end()

    def _begin(self, name: str, total: int, done: int = 0) -> None:
        self._end()
        self._stage = _Stage(name, total, done, before=done)
        if self._terminal.is_terminal and total:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = _Bars(*columns, console=self._terminal)
            self._task = self._bars.add_task(name, total=total, completed=done, facts="")
            self._bars.start()
        else:
            self._say(f"{name}: {done}/{total}" if total else name)

    def _advance(self, count: int, facts: str = "") -> None:
        if self._stage is None:
            return
        self._stage.done += count
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, advance=count, facts=facts or self._stage.pace().partition(",")[0])
        elif self._is_time(self._stage):
            of_all = f"/{self._stage.total}" if self._stage.total else ""
            pace = self._stage.pace()
            told = facts or (f"({pace})" if pace else "")
            self._say(f"{self._stage.name}: {self._stage.done}{of_all} {told}".rstrip())

    def _is_time(self, stage: _Stage) -> bool:
        now = time.monotonic()
        is_last = bool(stage.total) and stage.done >= stage.total
        if now - stage.said < _SECONDS_BETWEEN_LINES and not is_last:
            return False
        stage.said = now
        return True

    def _step(self, event: StepDone) -> None:
        if self._stage is None or self._stage.name != "training":
            self._begin("training", event.total_steps, event.step - 1)
        self._recent.append(event)
        # A step that was left out is not reported, but over.
        self._advance(event.step - self._stage.done if self._stage else 1, self._facts(event))

    def _facts(self, event: StepDone) -> str:
        seconds = sum(one.seconds for one in self._recent)
        loss = sum(one.loss for one in self._recent) / len(self._recent)
        speed = sum(one.samples for one in self._recent) / seconds
        each = seconds / len(self._recent)
        facts = [f"loss {loss:.4f}", f"lr {event.learning_rate:.2e}", f"{each:.2f} s/step", f"{speed:.1f} images/s"]
        left = timedelta(seconds=round((event.total_steps - event.step) * each))
        told = [] if self._bars is not None else [f"{left} left"]  # a bar tells it itself
        return "  ".join([*facts, *_costs(event.metrics), *told])

    def _end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = self._stage = None

    def _say(self, text: str) -> None:
        if self._terminal.is_terminal:
            self._terminal.print(text, markup=False)
        else:
            click.echo(text)


def _costs(metrics: Mapping[str, float]) -> Iterator[str]:
    """Memory, and the share of what the device could compute at most, where they are measured."""
    if (memory := metrics.get("memory_gib")) is not None:
        yield f"{memory:.1f} GiB"
    if (share := metrics.get("share_of_peak")) is not None:
        yield f"{share:.0%} of peak"


def _line(event: Event) -> str | None:
    if isinstance(event, RunStarted):
        return f"output: {event.output}"
    if isinstance(event, DatasetReady):
        skipped = f", {event.skipped} skipped: see {event.skip_list}" if event.skipped else ""
        return f"{event.id}: {_count(event.images, 'image')} in {_count(event.buckets, 'bucket')}{skipped}"
    if isinstance(event, Notice):
        return f"note: {event.text}"
    if isinstance(event, Evaluated):
        losses = ", ".join(f"{id} {loss:.4f}{_margin(event, id)}" for id, loss in event.losses.items())
        return f"loss on eval data at step {event.step}: {losses}"
    if isinstance(event, Scored):
        told = ", ".join(f"{name} {value:.1f}" for name, value in event.summary.items())
        return f"CLIP score at step {event.step}: {told}"
    if isinstance(event, CheckpointSaved):
        return f"checkpoint: {event.path}"
    if isinstance(event, ImagesSaved):
        return f"images: {event.sheet}"
    if isinstance(event, Published):
        return f"published: {event.url}"
    return None


def _margin(event: Evaluated, id: str) -> str:
    return f" ± {event.margins[id]:.4f}" if id in event.margins else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
