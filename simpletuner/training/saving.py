"""What goes into a checkpoint and when one is made, and how a run goes on from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from simpletuner.data.pace import Pace
from simpletuner.errors import Stopped
from simpletuner.models.trained import Trained, parameters_of
from simpletuner.progress import CheckpointSaved, Notice, Reporter
from simpletuner.storage.local import write_whole
from simpletuner.training import checkpoint
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.disk import Disk
from simpletuner.training.occasions import Occasions, Timer
from simpletuner.training.runtime import Runtime
from simpletuner.training.scripts import Script
from simpletuner.training.signals import Wishes
from simpletuner.training.updates import Updates

if TYPE_CHECKING:
    from torch import Tensor

RESOLVED_CONFIG = "simpletuner_config.json"
OPTIMIZER = "optimizer.safetensors"


class Kind(Enum):
    """Which kind of checkpoint is made."""

    NONE = 0
    ROLLING = 1
    LASTING = 2


@dataclass(frozen=True)
class Rhythm:
    """When checkpoints are made."""

    lasting: Occasions = field(default_factory=Occasions)
    rolling: Occasions = field(default_factory=Occasions)
    timer: Timer = field(default_factory=Timer)
    """For rolling ones, too."""

    def kind(self, step: int) -> Kind:
        """Which kind of checkpoint is due after a step."""
        if self.lasting.falls_on(step):
            return Kind.LASTING
        return Kind.ROLLING if self.rolling.falls_on(step) or self.timer.is_over() else Kind.NONE


@dataclass(frozen=True)
class Saving:
    """Keeps everything that a run needs to go on, and its result."""

    checkpoints: Checkpoints
    trained: Trained
    updates: Updates
    runtime: Runtime
    reporter: Reporter
    disk: Disk
    rhythm: Rhythm = field(default_factory=Rhythm)
    wishes: Wishes = field(default_factory=Wishes)
    script: Script | None = None
    """Runs after every checkpoint."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    resolved_config: str = "{}"
    data: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """For each data set how many images it has, and a fingerprint of them."""
    pace: Pace = field(default_factory=Pace)
    """How many batches the steps take, so that a run on other processes knows where this one stood."""

    def after_step(self, step: int) -> None:
        """Write a checkpoint when one is due or asked for; every process calls this after every step.

        Raises:
            CheckpointError: It cannot be written, or the disk is nearly full.
            Stopped: Somebody asked the run to stop; the checkpoint is written.
        """
        save, self.wishes.save = self.wishes.save, False  # what is asked for from here on is for the next step
        asked = self.runtime.group.every(lambda: (self.wishes.stop, save, self.rhythm.kind(step)))
        stop = max(number for number, _, _ in asked)
        kind = asked[0][2]  # minutes are counted by the first process
        if stop or any(save for _, save, _ in asked):
            kind = Kind.LASTING
        if kind is not Kind.NONE:
            self.runtime.group.first(lambda: self._keep(step, kind))
        self._stop(stop, step)

    def stop_if_asked(self, step: int) -> None:
        """End the run where somebody asked for that since the step; every process calls this.

        Raises:
            CheckpointError: The checkpoint cannot be written.
            Stopped: Somebody did; the checkpoint is written.
        """
        if number := max(self.runtime.group.every(lambda: self.wishes.stop)):
            self.runtime.group.first(lambda: self.checkpoints.has(step) or self.save(step))
            self._stop(number, step)

    def at_end(self, step: int) -> None:
        """Write the last checkpoint of a run, unless it is there, and wait for whoever reads the ones before.

        Raises:
            CheckpointError: It cannot be written.
            Stopped: Somebody asked the run to stop meanwhile, so nothing is drawn or uploaded any more.
        """
        self.runtime.group.first(lambda: self._finish(step))
        self._stop(max(self.runtime.group.every(lambda: self.wishes.stop)), step)

    def save(self, step: int, *, rolling: bool = False) -> Path:
        """Write a checkpoint."""
        self.disk.make_room(self._size(), is_over=lambda: self.wishes.stop > 0)
        path = self.checkpoints.save(step, lambda folder: self._write(folder, step), rolling=rolling)
        self.rhythm.timer.restart()
        self.reporter.report(CheckpointSaved(step, str(path)))
        if self.script is not None:
            self.script.start(path, step)
        return path

    def publish(self, step: int) -> Path:
        """Write the result into the output folder; returns its path."""
        with self.updates.evaluating():
            return self.trained.publish(self.checkpoints.folder, self._metadata(step))

    def restore(self, path: Path) -> int:
        """Go on from a checkpoint; returns its step.

        Raises:
            CheckpointError: It is of a run with other weights.
        """
        state = json.loads(checkpoint.read(path, checkpoint.STATE))
        self.trained.restore(path)
        self.updates.load(checkpoint.read_state(path / OPTIMIZER))
        self.reporter.report(Notice(f"resumed from {path.name}"))
        for text in self._changed_data(state.get("data", {})):
            self.reporter.report(Notice(text))
        return int(state["global_step"])

    def _stop(self, number: int, step: int) -> None:
        if number:
            raise Stopped(Signals(number), step, str(self.checkpoints.folder / checkpoint.name_of(step)))

    def _keep(self, step: int, kind: Kind) -> None:
        path = self.save(step, rolling=kind is Kind.ROLLING)
        if not self.wishes.stop:
            self.disk.refuse_low(f"{path.name} is saved")

    def _finish(self, step: int) -> None:
        if not self.checkpoints.has(step):
            self.save(step)
        if self.script is not None:
            self.script.wait()

    def _size(self) -> int:
        """About how many bytes the next checkpoint will take."""
        weights = [weight.detach() for weight in parameters_of(self.trained).values()]
        remembered = sum(one.nbytes for one in _tensors([weights, self.updates.state()]))
        return max(self.checkpoints.usual_size(), remembered)

    def _write(self, folder: Path, step: int) -> None:
        with self.updates.evaluating():
            self.trained.save(folder, self._metadata(step))
        checkpoint.write_state(folder / OPTIMIZER, self.updates.state())
        write_whole(folder / checkpoint.STATE, json.dumps(self._state(step)).encode())
        write_whole(folder / RESOLVED_CONFIG, self.resolved_config.encode())

    def _state(self, step: int) -> dict[str, object]:
        return {
            "global_step": step,
            "seed": self.runtime.seed,
            "optimizer": self.updates.options.optimizer,
            "data": self.data,
            "pace": self.pace.stretches,
            "parts": self.pace.parts,
        }

    def _metadata(self, step: int) -> dict[str, str]:
        return {**self.metadata, "global_step": str(step)}

    def _changed_data(self, before: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
        """What is different in the data now, so that the run cannot go on exactly as it would have."""
        for id in before.keys() & self.data.keys():
            then, now = before[id], self.data[id]
            if then != now:
                had = f"had {then['images']} images and has {now['images']}"
                what = had if then["images"] != now["images"] else "has other images, or other sizes of them"
                yield f"data set '{id}' {what} now: from here on, the order of the images is another one"


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in a nested state."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
