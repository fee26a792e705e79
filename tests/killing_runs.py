"""A run that is killed without warning again and again, wherever it is just then, and begun again each time.

After each kill, the newest checkpoint has to be whole, no older than the last one that was told, and the one that the
next process goes on from. A run that comes to its end has to be the one that was never disturbed, file by file, and is
begun again with nothing.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import house
import processes
from safetensors.torch import load_file

from simpletuner.progress import CheckpointSaved, Event, Notice, Reporter, StepDone, TrainingStarted
from simpletuner.run import train
from simpletuner.training.checkpoint import Checkpoints, read_state

MESSAGES, SECONDS = 5, 0.15
"""A kill comes after so many steps and checkpoints, and then so many seconds, at most."""
DIARY = ("progress.jsonl", "run_manifest.json")
"""Files that tell how a run went, and so of its interruptions."""


class Telling(Reporter):
    """Tells another process of each event: its kind, the checkpoint that was saved, and the one gone on from."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def report(self, event: Event) -> None:
        saved = Path(event.path).name if isinstance(event, CheckpointSaved) else ""
        resumed = event.text.removeprefix("resumed from ") if isinstance(event, Notice) else ""
        self._pipe.send_bytes(json.dumps([type(event).__name__, saved, resumed]).encode())

    def close(self) -> None:
        """There is nothing to do."""


@dataclass
class Life:
    """What a process told until its end."""

    told: list[list[str]] = field(default_factory=list)
    was_killed: bool = True

    @property
    def trained(self) -> bool:
        """Whether it came as far as training."""
        return any(kind == TrainingStarted.__name__ for kind, _, _ in self.told)

    @property
    def saved(self) -> list[str]:
        """The checkpoints that it told of."""
        return [name for _, name, _ in self.told if name]

    def began_with(self, name: str) -> bool:
        """Whether it went on from a checkpoint, where there was one."""
        return not self.trained or not name or any(resumed == name for _, _, resumed in self.told)


@dataclass
class Killing:
    """Kills a run, and looks at what is left each time."""

    path: Path
    model: Path
    output: Path
    chance: random.Random
    calm: dict[str, bytes]
    """What the undisturbed run has left behind."""
    met: Counter[str] = field(default_factory=Counter)
    """How many kills met a run, and where."""
    newest: str = ""

    def go(self, kills: int) -> None:
        """Kill so many runs, and let the last one come to its end."""
        while self.met["kills"] < kills:
            life = self._life()
            assert life.began_with(self.newest), f"{self.newest} was not gone on from: {life.told}"
            self.newest = self._checked(life) if life.was_killed else self._ended()
        life = self._life(is_killed=False)
        assert life.began_with(self.newest), f"{self.newest} was not gone on from: {life.told}"
        self._compare()

    def _life(self, *, is_killed: bool = True) -> Life:
        """Let a process train, and kill it."""
        ours, theirs = processes.CONTEXT.Pipe(duplex=False)
        process = processes.CONTEXT.Process(target=trains, args=(theirs, self.path, self.model), daemon=True)
        process.start()
        theirs.close()
        life = Life()
        try:
            if is_killed:
                self._wait(ours, life)
                process.kill()
            while True:
                life.told.append(json.loads(ours.recv_bytes()))
        except EOFError:
            process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"it ended with {process.exitcode}: {life.told[-3:]}"
        life.was_killed = process.exitcode != 0
        return life

    def _wait(self, ours: Connection, life: Life) -> None:
        """Until a random moment: one in ten before training, most of the others soon after a step or a checkpoint."""
        if self.chance.random() < 0.1:
            time.sleep(self.chance.uniform(0, 8 * SECONDS))
            return
        left = 1 + self.chance.randint(0, MESSAGES)
        while left:
            life.told.append(json.loads(ours.recv_bytes()))
            left -= life.told[-1][0] in _COUNTED
        time.sleep(SECONDS * self.chance.random() ** 4)

    def _checked(self, life: Life) -> str:
        """Look at the newest checkpoint; returns its name."""
        self._count(life)
        found = Checkpoints(self.output, 0).newest(_damaged)
        told = [*([self.newest] if self.newest else []), *life.saved]
        assert found is not None or not told, f"there is no checkpoint, and {told[-1]} was told"
        if found is None:
            return ""
        assert not told or _step(found.name) >= _step(told[-1]), f"the newest is {found.name}; {told[-1]} was told"
        read_state(found / "optimizer.safetensors")
        assert all(load_file(path) for path in found.rglob("*.safetensors") if path.name != "optimizer.safetensors")
        return found.name

    def _count(self, life: Life) -> None:
        left = [path.name for path in self.output.glob(".checkpoint-*")]
        places = {
            "kills": True,
            "in training": life.trained,
            "in writing a checkpoint": any(name.endswith(".partial") for name in left),
            "in removing a checkpoint": any(name.endswith(".removed") for name in left),
        }
        self.met.update(name for name, is_so in places.items() if is_so)

    def _ended(self) -> str:
        """A run has come to its end between two kills; begin again with nothing."""
        self.met.update(["came to their end"])
        self._compare()
        shutil.rmtree(self.output)
        return ""

    def _compare(self) -> None:
        """See that what is left behind is what the undisturbed run has left."""
        found = kept(self.output)
        other = [name for name in sorted(found | self.calm) if found.get(name) != self.calm.get(name)]
        assert not other, f"these are missing or others: {other}; the kills met {dict(self.met)}"


def trains(theirs: Connection, path: Path, model: Path) -> None:
    """What a process does."""
    import torch

    torch.set_num_threads(1)
    train(house.resolved(path, model), Telling(theirs))


def kept(output: Path) -> dict[str, bytes]:
    """Every file that a run leaves behind, but for its diary."""
    files = [path for path in output.rglob("*") if path.is_file() and path.name not in DIARY]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


_COUNTED = [kind.__name__ for kind in (TrainingStarted, StepDone, CheckpointSaved)]


def _damaged(text: str) -> None:
    """A checkpoint that has its name is complete, however its writer ended."""
    raise AssertionError(text)


def _step(name: str) -> int:
    return int(name.split("-")[1])
