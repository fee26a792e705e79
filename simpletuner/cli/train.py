"""``simpletuner train``."""

from __future__ import annotations

import os
import sys

import click

from simpletuner.cli.choosing import PASS_ON, chosen, selecting
from simpletuner.cli.console import Console
from simpletuner.cli.launching import end_with_the_launcher, launch
from simpletuner.cli.quiet import quiet
from simpletuner.cli.summary import closing
from simpletuner.config import load
from simpletuner.demo.start import prepare_demo
from simpletuner.errors import Elsewhere, Stopped
from simpletuner.progress import Notice
from simpletuner.run import train
from simpletuner.training.crew import crew
from simpletuner.training.place import Place

DEMO = "demo"


@click.command("train", context_settings=PASS_ON)
@selecting
def command(config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...]) -> None:
    """Train from a config.

    Any option of the config can be given here too, as `learning_rate=1e-4` or `--learning_rate 1e-4`; it wins over the
    file. Without a choice, config/config.json is used. `simpletuner options` lists all options.
    """
    quiet()
    selection, words = chosen(config, env, example, overrides)
    place = Place.read(os.environ)
    if selection.example == DEMO and place is None:
        prepare_demo()
    reading = load(selection, [*words, *_known_to(place)], environment=os.environ)
    if place is None and (wanted := crew(reading.config.distributed)).num_processes > 1:
        sys.exit(launch(wanted, os.environ))
    end_with_the_launcher(os.environ)
    is_first = place is None or place.rank == 0
    console = Console()
    for text in reading.notices if is_first else ():
        console.report(Notice(text))
    try:
        outcome = train(reading.config, console, place)
    except (Elsewhere, Stopped) as error:
        if is_first:
            raise
        # The first process says that it was asked to stop, and whichever failed has said why.
        sys.exit(128 + error.signal if isinstance(error, Stopped) else 1)
    if is_first:
        click.echo(closing(outcome, is_demo=selection.example == DEMO))


def _known_to(place: Place | None) -> list[str]:
    """However it was launched, the config says how many processes there are."""
    return [] if place is None else [f"num_processes={place.processes}"]
