"""``simpletuner check``."""

from __future__ import annotations

import os
from operator import itemgetter

import click

from simpletuner import preflight
from simpletuner.cli.choosing import PASS_ON, chosen, selecting
from simpletuner.cli.summary import describe
from simpletuner.config import Reading, load
from simpletuner.data import previews
from simpletuner.demo.start import prepare_demo
from simpletuner.errors import ConfigError
from simpletuner.hub import closed, findings
from simpletuner.training import update_plans


@click.command("check", context_settings=PASS_ON)
@click.option("--offline", is_flag=True, help="Touch no network; say what was therefore not looked at.")
@click.option("-a", "--all", "with_defaults", is_flag=True, help="Show every option, not only those that are set.")
@selecting
def command(
    config: str | None,
    env: str | None,
    example: str | None,
    overrides: tuple[str, ...],
    offline: bool,
    with_defaults: bool,
) -> None:
    """Check a config and show the run it makes, without training.

    Every problem is listed at once, with the place and the remedy; the exit code is then 2.
    """
    selection, words = chosen(config, env, example, overrides)
    if selection.example == "demo":
        prepare_demo()
    reading = load(selection, words, environment=os.environ)
    if reading.config.optimization.optimizer_config:  # the only option whose meaning is in another library
        update_plans.try_out(reading.config.optimization)
    preflight.adapters(reading.config)
    remote = [*_weights(reading, offline), *_data(reading, offline)]
    for text in [*reading.notices, *preflight.remarks(reading.config), *remote]:
        click.echo(f"note: {text}")
    click.echo(describe(reading, with_defaults=with_defaults))


def _weights(reading: Reading, offline: bool) -> list[str]:
    """What there is to say about weights that are not on this machine.

    Raises:
        ConfigError: They are not open to the user.
    """
    places = preflight.remote(reading.config)
    if offline:
        return [f"{source} was not looked at: --offline" for source, _ in sorted(places.values(), key=itemgetter(0))]
    found = list(findings(places))
    if problems := list(closed(found)):
        raise ConfigError(str(reading.path), problems)
    return [one.said for _, one in found]


def _data(reading: Reading, offline: bool) -> list[str]:
    """What there is to say about data sets on the Hub.

    Raises:
        ConfigError: They are not there, or not as the data file says.
    """
    if offline:
        return [f"{entry.dataset_name} was not looked at: --offline" for entry in previews.on_hub(reading.config.data)]
    problems, notes = previews.wrong_rows(reading.config.data, reading.config.data_defaults)
    if problems:
        raise ConfigError(str(reading.path), problems)
    return notes
