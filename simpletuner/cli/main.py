"""The command line: ``simpletuner COMMAND``. Commands are loaded when they are used, so that help is instant."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import click

from simpletuner import __version__
from simpletuner.errors import ConfigError, SimpleTunerError, Stopped

COMMANDS = {
    "train": "Train from a config.",
    "check": "Check a config and show the run it makes, without training.",
    "configure": "Answer a few questions and get a config that works.",
    "examples": "List the examples that come along, or copy one.",
    "data": "Look at the data sets of a config before training.",
    "export": "Write an adapter in the format of another program.",
    "push": "Upload the result of a run to the Hugging Face Hub.",
    "repro": "Make a run again from what it left behind, and compare the result.",
    "cache": "Fill, check or tidy up the caches of a config.",
    "options": "Show every option of a config with its meaning.",
}
"""Each command is the object `command` in the module of its name."""

LATER = {
    "server": "use the command line; progress.jsonl in the output folder can be followed by other programs",
    "generate": "load the adapter in diffusers; the model card in the output folder shows how",
}


def joined(words: Sequence[str]) -> list[str]:
    """The words of a command line with ``--option -1`` as ``--option=-1``: a number is not taken for an option."""
    found: list[str] = []
    for word in words:
        is_number = re.match(r"-[\d.]", word) is not None
        if is_number and found and found[-1].startswith("--") and "=" not in found[-1]:
            found[-1] = f"{found[-1]}={word}"
        else:
            found.append(word)
    return found


def did_you_mean(name: str) -> str:
    """A question with the nearest command, or nothing."""
    near = get_close_matches(name, list(COMMANDS), n=1)
    return f"did you mean '{near[0]}'? " if near else ""


class Commands(click.Group):
    """Finds a command by its name and loads its module only then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; an unknown name is answered with the nearest one."""
        if cmd_name in LATER:
            raise click.UsageError(f"'{cmd_name}' is not served yet; {LATER[cmd_name]}.")
        if cmd_name not in COMMANDS:
            raise click.UsageError(f"no command is called '{cmd_name}'; {did_you_mean(cmd_name)}see --help")
        command: click.Command = importlib.import_module(f"simpletuner.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, "-v", "--version", prog_name="simpletuner")
@click.pass_context
def app(context: click.Context) -> None:
    """Fine-tune FLUX.1 from two JSON files.

    Start with `simpletuner configure`, or see it work at once with `simpletuner train --example demo`.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run a command and turn what went wrong into a message and an exit code.

    0: done. 1: the run failed. 2: the config or the command line cannot be used. 130: interrupted.

    128 and the number of the signal: asked to stop, and all is in a checkpoint.
    """
    try:
        sys.exit(app(args=joined(sys.argv[1:]), standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except Stopped as error:
        click.echo(str(error), err=True)
        sys.exit(128 + error.signal)
    except SimpleTunerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
