"""Room on the disk: looked at before a run and before each checkpoint, so that a full disk is met between two files."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simpletuner.errors import CheckpointError
from simpletuner.progress import Notice, Reporter
from simpletuner.schema import words
from simpletuner.training.scripts import filled

LOW_ACTIONS = words(
    "action on a full disk",
    {
        "stop": "Ends the run, with a checkpoint if there is room for one.",
        "wait": "Waits until there is room again.",
        "script": "Runs disk_low_script, and ends the run like stop if there is no room then.",
    },
)


def bytes_of(size: str) -> int:
    """The number of bytes that a size such as 10G stands for.

    Raises:
        ValueError: It is no size.
    """
    found = re.fullmatch(_SIZE, size.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"'{size}' is no size; give a number with K, M, G or T, such as 10G")
    return int(float(found[1]) * 1024 ** ("KMGT".find(found[2].upper()) + 1 if found[2] else 0))


def shown(size: float) -> str:
    """A number of bytes in the unit that people would use."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1024
    return f"{size:.4g} TiB"


def free_on(folder: Path) -> int:
    """How many bytes are free where a folder is or will be."""
    return shutil.disk_usage(next(one for one in (folder, *folder.absolute().parents) if one.is_dir())).free


@dataclass(frozen=True)
class Disk:
    """The disk that a run writes to."""

    folder: Path
    reporter: Reporter
    low: int = 0
    """Less than so many free bytes are too few, besides what a checkpoint needs."""
    action: str = "stop"
    script: str | None = None
    free: Callable[[Path], int] = free_on
    pause: float = 10.0
    """The seconds between two looks while the run waits."""

    def begin(self) -> None:
        """See that as much is free as the options ask for before anything is done.

        Raises:
            CheckpointError: The disk is nearly full.
        """
        self._free_some(0, lambda: False)
        self.refuse_low("Nothing was begun")

    def make_room(self, needed: int, *, is_over: Callable[[], bool] = lambda: False) -> None:
        """See that so many bytes are free, by waiting or by a script where the options say so.

        Args:
            needed: What will be written.
            is_over: Whether somebody asked the run to stop, so that it does not wait any longer.

        Raises:
            CheckpointError: There is too little room.
        """
        self._free_some(needed, is_over)
        if (free := self.free(self.folder)) < needed:
            raise CheckpointError(
                f"there is no room for a checkpoint: it needs about {shown(needed)}, and '{self.folder}' has "
                f"{shown(free)} free. Free some space, lower checkpoints_total_limit, or choose another output_dir; "
                f"earlier checkpoints are unharmed."
            )

    def refuse_low(self, state: str) -> None:
        """End the run when less is free than there should be.

        Args:
            state: How things stand, as the beginning of a sentence.

        Raises:
            CheckpointError: The disk is nearly full.
        """
        if self.low and self.action != "wait" and (free := self.free(self.folder)) < self.low:
            raise CheckpointError(
                f"'{self.folder}' has {shown(free)} free, less than disk_low_threshold ({shown(self.low)}). {state}: "
                f"free some space and start the same command again, or lower disk_low_threshold."
            )

    def _free_some(self, needed: int, is_over: Callable[[], bool]) -> None:
        """Do what the options say where there is too little room."""
        if not self._is_short(needed):
            return
        if self.action == "wait":
            self._wait(needed, is_over)
        elif self.action == "script":
            self._run_script()

    def _is_short(self, needed: int) -> bool:
        return self.free(self.folder) < max(needed, self.low)

    def _wait(self, needed: int, is_over: Callable[[], bool]) -> None:
        free, wanted = shown(self.free(self.folder)), shown(max(needed, self.low))
        self.reporter.report(Notice(f"'{self.folder}' has {free} free; training waits until it has {wanted}"))
        while self._is_short(needed) and not is_over():
            time.sleep(self.pause)

    def _run_script(self) -> None:
        self.reporter.report(Notice(f"'{self.folder}' is nearly full; disk_low_script runs"))
        try:
            code = subprocess.run(filled(self.script or "", {}), stdin=subprocess.DEVNULL, check=False).returncode
        except OSError as error:
            self.reporter.report(Notice(f"disk_low_script cannot be run: {error}"))
            return
        if code:
            self.reporter.report(Notice(f"disk_low_script ended with exit code {code}"))


_SIZE = r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?"
