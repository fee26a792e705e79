"""How long does one wait for the command line, and for the first step of a run?

A warm run finds everything in its caches. Against an interpreter that does nothing, and against the imports that any
trainer needs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import setting

SIMPLETUNER = [sys.executable, "-m", "simpletuner"]
CHECK = [*SIMPLETUNER, "check", "--offline", "--example", "demo"]
TRAIN = [*SIMPLETUNER, "train", "--example", "demo", "max_train_steps=2", "validation_disable=true"]
IMPORTS = "import torch, diffusers, transformers, peft, accelerate"


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    time: setting.Time
    megabytes: float
    """The most memory that it had at a time."""
    began: float


def main() -> None:
    """Print how long each command takes, and how much memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="how often each command is run")
    options = parser.parse_args()
    setting.print_setting()
    with tempfile.TemporaryDirectory() as folder:
        rows = [*_commands(Path(folder), options.repeats), *_runs(Path(folder), options.repeats)]
    setting.print_table(("command", "wall", "processor", "memory"), rows)


def _commands(folder: Path, repeats: int) -> list[list[str]]:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "simpletuner --help": [*SIMPLETUNER, "--help"],
        "simpletuner check": CHECK,
        "the imports of a trainer alone": [sys.executable, "-c", IMPORTS],
    }
    _run(CHECK, folder)  # draws the pictures of the demo, which only the first time has to
    return [_row(name, [_run(words, folder) for _ in range(repeats)]) for name, words in commands.items()]


def _row(name: str, ended: list[Ended]) -> list[str]:
    time = setting.median([one.time for one in ended])
    return [name, *map(setting.milliseconds, (time.wall, time.cpu)), _memory(ended)]


def _memory(ended: list[Ended]) -> str:
    """The most that any of them had; a process begins as a copy of this one, so less than ours cannot be seen."""
    most, own = max(one.megabytes for one in ended), _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return f"{most:,.0f} MB" if most > own + 1 else f"under {own:,.0f} MB"


def _runs(folder: Path, repeats: int) -> list[list[str]]:
    cold, cold_first, _ = _train(folder, "cold")
    warm = [_train(folder, f"warm {number}") for number in range(repeats)]
    first, last = (statistics.median(one[place] for one in warm) for place in (1, 2))
    return [
        [
            "simpletuner train, to the end of the first step, empty caches",
            setting.milliseconds(cold_first),
            "",
            _memory([cold]),
        ],
        ["simpletuner train, to the end of the first step, full caches", setting.milliseconds(first), "", ""],
        ["simpletuner train, from the last step to the prompt", setting.milliseconds(last), "", ""],
        _row("simpletuner train, two steps, full caches", [ended for ended, _, _ in warm]),
    ]


def _train(folder: Path, name: str) -> tuple[Ended, float, float]:
    """A run of two steps, with the seconds to the end of its first step and those after its last."""
    ended = _run([*TRAIN, f"output_dir={folder / name}"], folder)
    lines = (folder / name / "progress.jsonl").read_text().splitlines()
    steps = [event["time"] for event in map(json.loads, lines) if event["event"] == "StepDone"]
    return ended, steps[0] - ended.began, ended.began + ended.time.wall - steps[-1]


def _run(words: list[str], folder: Path) -> Ended:
    began, started = time.time(), time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    wall = time.perf_counter() - started
    return Ended(setting.Time(wall, used.ru_utime + used.ru_stime), _megabytes(used.ru_maxrss), began)


def _megabytes(maximum: int) -> float:
    return maximum / 1e6 if sys.platform == "darwin" else maximum / 1e3  # Linux counts in kilobytes


if __name__ == "__main__":
    main()
