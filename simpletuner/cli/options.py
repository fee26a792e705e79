"""``simpletuner options``."""

from __future__ import annotations

import click

from simpletuner.config import OWNER, SECTIONS
from simpletuner.describing import option_text
from simpletuner.schema import did_you_mean


@click.command("options")
@click.argument("names", nargs=-1)
def command(names: tuple[str, ...]) -> None:
    """Show every option of a config with its meaning, or only the named ones.

    A name that is no option is taken as a part of a name: `simpletuner options lr` shows all options with lr in them.
    """
    shown = [option for option in OWNER if not names or any(name.strip("-") in option for name in names)]
    if not shown:
        raise click.UsageError(
            f"no option is called '{names[0]}'; {did_you_mean(names[0], OWNER)}see documentation/OPTIONS.md"
        )
    for option in shown:
        click.echo(option_text(option, SECTIONS[OWNER[option]].model_fields[option]))
