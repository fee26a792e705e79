"""``simpletuner train``."""

from __future__ import annotations

import os

import click

from simpletuner.cli.choosing import PASS_ON, chosen, selecting
from simpletuner.cli.console import Console
from simpletuner.cli.quiet import quiet
from simpletuner.cli.summary import closing
from simpletuner.config import load
from simpletuner.demo.start import prepare_demo
from simpletuner.progress import Notice
from simpletuner.run import train

DEMO = "demo"


@click.command("train", context_settings=PASS_ON)
@selecting
def command(config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...]) -> None:
    """Train a LoRA from a config.

    Any option of the config can be given here too, as `learning_rate=1e-4` or `--learning_rate 1e-4`; it wins over the
    file. Without a choice, config/config.json is used.
    """
    quiet()
    selection, words = chosen(config, env, example, overrides)
    if selection.example == DEMO:
        prepare_demo()
    reading = load(selection, words, environment=os.environ)
    console = Console()
    for text in reading.notices:
        console.report(Notice(text))
    outcome = train(reading.config, console)
    click.echo(closing(outcome, is_demo=selection.example == DEMO))
