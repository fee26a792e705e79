"""``simpletuner data``."""

from __future__ import annotations

import os
import webbrowser
from dataclasses import replace
from datetime import datetime
from errno import EISDIR
from pathlib import Path
from tempfile import TemporaryFile

import click
from rich.console import Console as Terminal

from simpletuner import __version__, plans
from simpletuner.cli.choosing import PASS_ON, chosen, selecting
from simpletuner.cli.console import Console
from simpletuner.cli.quiet import quiet
from simpletuner.cli.tables import findings_of, overview
from simpletuner.config import Reading, RunConfig, load
from simpletuner.data.report import page
from simpletuner.data.report.inspection import Report, Wishes, inspect
from simpletuner.data.report.wording import Tokenizers
from simpletuner.demo.start import prepare_demo
from simpletuner.errors import ModelError
from simpletuner.models.flux.tokens import open_counters
from simpletuner.preparation import open_data
from simpletuner.progress import Notice, Reporter
from simpletuner.storage.local import LocalStore, cannot_write

PAGE = "data_report.html"


@click.group("data")
def command() -> None:
    """Look at the data sets of a config before training."""


@command.command("report", context_settings=PASS_ON)
@click.option("-o", "--output", metavar="FILE", help=f"Where the page is written; {PAGE} in output_dir unless given.")
@click.option("--no-thumbnails", is_flag=True, help="Show no pictures: the page is small, and can be passed on.")
@click.option("--no-duplicates", is_flag=True, help="Open no images to find those that look alike or are damaged.")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@selecting
def report(
    config: str | None,
    env: str | None,
    example: str | None,
    overrides: tuple[str, ...],
    output: str | None,
    no_thumbnails: bool,
    no_duplicates: bool,
    show: bool,
) -> None:
    """Show what training would make of the images.

    There is a table here, and a page with everything. The page is one file that needs no network: buckets with what is
    cropped away, files that are left out and why, images that look alike, captions that are odd or too long.
    """
    quiet()
    selection, words = chosen(config, env, example, overrides)
    if selection.example == "demo":
        prepare_demo()
    reading = load(selection, words, environment=os.environ)
    wishes = Wishes(alike=not no_duplicates, thumbnails=not no_thumbnails)
    path = Path(output or Path(reading.config.run.output_dir) / PAGE)
    _refuse_unwritable(path)
    console = Console()
    found = _inspected(reading, wishes, console)
    console.close()
    _write(path, found, reading)
    _show(found, path)
    if show:
        webbrowser.open(path.absolute().as_uri())


def _refuse_unwritable(path: Path) -> None:
    """Say before all the work that the page cannot be written."""
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def _inspected(reading: Reading, wishes: Wishes, reporter: Reporter) -> Report:
    config = reading.config
    for text in reading.notices:
        reporter.report(Notice(text))
    opened = open_data(config, reporter, allows_silence=True)
    tokenizers, trouble = _tokenizers(config)
    wishes = replace(wishes, tokenizers=tokenizers, sampling=config.data_defaults.data_backend_sampling)
    found = inspect(opened.whole, plans.cache_folder(config), wishes, reporter)
    if not trouble:
        return found
    note = f"Tokens were not counted: {trouble}"
    reporter.report(Notice(note))
    return replace(found, notes=(note,))


def _tokenizers(config: RunConfig) -> tuple[Tokenizers | None, str]:
    """What counts tokens, or why nothing does."""
    try:
        return Tokenizers(*open_counters(config.model.weights(), config.objective.tokenizer_max_length)), ""
    except ModelError as error:
        return None, str(error)


def _write(path: Path, found: Report, reading: Reading) -> None:
    made = f"SimpleTuner {__version__}, {datetime.now():%Y-%m-%d %H:%M}"
    html = page.render(found, title=f"Data sets of {reading.path}", made=made)
    LocalStore(path.parent).write(path.name, html.encode())


def _show(found: Report, path: Path) -> None:
    terminal = Terminal(highlight=False)
    terminal.print(overview(found))
    for line in findings_of(found):
        terminal.print(line, soft_wrap=True)
    terminal.print(f"page: {path}", soft_wrap=True, markup=False)
