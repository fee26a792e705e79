"""The command line: help at once, exit codes that mean something, messages without tracebacks."""

import os
import subprocess
import sys

import click
import pytest

from simpletuner import __version__
from simpletuner.cli.main import COMMANDS, app


def call(*words, **environment):
    command = [sys.executable, "-m", "simpletuner", *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_help_lists_every_command_with_its_own_first_sentence():
    done = call("--help")
    assert done.returncode == 0
    context = click.Context(app)
    for name, summary in COMMANDS.items():
        assert name in done.stdout
        assert app.get_command(context, name).help.startswith(summary.rstrip("."))


@pytest.mark.parametrize("name", ["cache", "data", "examples"])
def test_no_line_about_a_command_in_a_group_is_cut_off(name):
    group = app.get_command(click.Context(app), name)
    assert "..." not in group.get_help(click.Context(group)).partition("Commands:")[2]


def test_no_command_at_all_shows_the_help():
    done = call()
    assert done.returncode == 0 and "Commands:" in done.stdout


def test_the_version_is_shown():
    assert __version__ in call("--version").stdout


def test_an_unknown_command_is_refused_with_two():
    done = call("trian")
    assert done.returncode == 2 and "no command is called 'trian'; did you mean 'train'? see --help" in done.stderr


@pytest.mark.parametrize("name", ["server", "generate"])
def test_a_command_that_is_not_served_yet_says_what_to_use(name):
    done = call(name)
    assert done.returncode == 2
    assert f"'{name}' is not served yet; " in done.stderr and "Traceback" not in done.stderr


def test_help_loads_neither_torch_nor_the_config():
    code = "import sys; from simpletuner.cli.main import main; sys.argv[1:] = ['--help']\n"
    code += "try:\n    main()\nexcept SystemExit:\n"
    code += "    print([name for name in ('torch', 'pydantic', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]"


def test_examples_can_be_listed_and_copied(tmp_path):
    assert "demo" in call("examples", "list").stdout
    done = call("examples", "copy", "demo", "--destination", str(tmp_path))
    assert done.returncode == 0 and (tmp_path / "demo" / "config.json").is_file()
    again = call("examples", "copy", "demo", "--destination", str(tmp_path))
    assert again.returncode == 2 and "exists already" in again.stderr


def test_an_option_is_explained_and_a_part_of_a_name_finds_several():
    one, several = call("options", "lora_rank"), call("options", "lr_")
    assert "lora_rank" in one.stdout and "16" in one.stdout
    assert "lr_scheduler" in several.stdout and "lr_warmup_steps" in several.stdout


def test_an_option_that_does_not_exist_is_answered_with_the_nearest():
    done = call("options", "lerning_rate")
    assert done.returncode == 2 and "did you mean 'learning_rate'" in done.stderr


def test_a_negative_number_is_a_value_and_no_option():
    done = call("check", "--example", "demo", "--offline", "--learning_rate", "-1e-4")
    assert done.returncode == 2 and "learning_rate: must be above 0, got '-1e-4'" in done.stderr
