"""``simpletuner repro``: make a run again from what it left behind, and compare the result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from simpletuner.cli.launching import passing_on
from simpletuner.config import ENVIRONMENT_PREFIX
from simpletuner.reproduction import Repetition, repetition


@click.command("repro")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Its folder; RUN-repro unless given.")
def command(run: Path, output: Path | None) -> None:
    """Make a run again from what it left behind, and compare the result.

    RUN is the output folder of a run. Its resolved config, its seed and the folder it was started in are used; nothing
    is uploaded and no tracker is told. The exit code is 0 when the weights are the same, bit for bit, and 1 otherwise.
    """
    run = run.absolute()
    again = repetition(run, (output or run.with_name(f"{run.name}-repro")).absolute())
    for place in again.secrets:
        click.echo(f"{place} is a secret, which is not kept; set it in the environment if the run needs it", err=True)
    if code := _train(again):
        sys.exit(code)
    for line in again.outcome():
        click.echo(line)
    sys.exit(0 if again.is_same() else 1)


def _train(again: Repetition) -> int:
    """Train in a process of its own, as the first run did; returns its exit code."""
    command = [sys.executable, "-m", "simpletuner", "train", "--config", str(again.config)]
    started = subprocess.Popen(command, cwd=again.before.folder, env=_environment(), start_new_session=True)
    with passing_on([started]):
        code = started.wait()
    return code if code >= 0 else 128 - code


def _environment() -> dict[str, str]:
    """The environment without what would change the config."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_CHANGES)}


_CHANGES = (ENVIRONMENT_PREFIX, "ACCELERATE_", "CONFIG_", "TRAINING_")
