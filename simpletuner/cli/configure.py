"""``simpletuner configure``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from simpletuner.wizard.session import hold
from simpletuner.wizard.write import save


@click.command("configure")
@click.argument("folder", default="config")
def command(folder: str) -> None:
    """Answer a few questions and get a config that works.

    Writes config.json, multidatabackend.json and user_prompt_library.json into FOLDER. A config that is there already
    is changed: its values are where the questions start, and what is not asked stays as it is.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.ClickException(
            "the questions need a terminal. Without one, copy config/config.json.example to config/config.json, and "
            "config/multidatabackend.json.example beside it, and edit them; then run: simpletuner check"
        )
    try:
        agreed = hold(Path(folder), environment=os.environ, working=Path.cwd())
    except (KeyboardInterrupt, EOFError):
        click.echo("interrupted; nothing was written", err=True)
        sys.exit(130)
    if agreed is None:
        click.echo("nothing was written")
        return
    save(agreed)
    click.echo(_next(folder))


def _next(folder: str) -> str:
    if Path(folder) == Path("config"):
        return "next: simpletuner check, then ./train.sh"
    return f"next: simpletuner check --config {folder}, then ./train.sh --config {folder}"
