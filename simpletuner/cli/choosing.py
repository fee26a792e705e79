"""The options by which every command finds its config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from simpletuner.selection import Selection

PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Settings of a command that takes any option of a config."""


def selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--config``, ``--env`` and ``--example``, and the options that override the file."""
    for decorate in (
        click.argument("overrides", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION=VALUE]..."),
        click.option("-x", "--example", metavar="NAME", help="Use an example that comes along, such as demo."),
        click.option("-e", "--env", metavar="NAME", help="Use config/NAME/config.json."),
        click.option("-c", "--config", metavar="FILE", help="Use this config file."),
    ):
        function = decorate(function)
    return function


def chosen(
    config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...]
) -> tuple[Selection, list[str]]:
    """The selection, and what is left on the command line; ``env=NAME`` and ``example=NAME`` select too."""
    left = []
    for word in overrides:
        key, _, value = word.partition("=")
        if key == "env" and value:
            env = value
        elif key == "example" and value:
            example = value
        else:
            left.append(word)
    return Selection(config, env, example), left
