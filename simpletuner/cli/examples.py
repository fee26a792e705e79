"""``simpletuner examples``."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from simpletuner.schema import did_you_mean
from simpletuner.selection import example_folders


@click.group("examples")
def command() -> None:
    """List the examples that come along, or copy one."""


@command.command("list")
def list_examples() -> None:
    """List the examples, each with what it is for."""
    for name, folder in sorted(found().items()):
        readme = folder / "README.md"
        said = readme.read_text(encoding="utf-8").strip().splitlines()[0].lstrip("# ") if readme.is_file() else ""
        click.echo(f"{name:24} {said}")


@command.command("copy")
@click.argument("name")
@click.option("-d", "--destination", default="config", help="The folder to copy into.", show_default=True)
def copy_example(name: str, destination: str) -> None:
    """Copy an example, so that it can be changed.

    It becomes a folder in --destination, which must not have one of that name.
    """
    examples = found()
    if name not in examples:
        hint = did_you_mean(name, examples)
        raise click.UsageError(f"there is no example '{name}'; {hint}there are: {', '.join(sorted(examples))}")
    target = Path(destination) / name
    if target.exists():
        raise click.UsageError(f"'{target}' exists already; choose another --destination")
    try:
        shutil.copytree(examples[name], target)
    except OSError as error:
        raise click.UsageError(f"'{target}' cannot be made: {error.strerror}; choose another --destination") from error
    click.echo(f"copied to {target}; train it with: simpletuner train --config {target}")


def found() -> dict[str, Path]:
    """The examples by name."""
    return {path.parent.name: path.parent for root in example_folders() for path in root.glob("*/config.*")}
