"""``simpletuner export``: write an adapter file in the format of another program."""

from __future__ import annotations

from pathlib import Path

import click

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats import FORMATS
from simpletuner.models.adapters.formats.comparing import Comparison, compare
from simpletuner.models.adapters.formats.files import encode, find, kept, read_adapter
from simpletuner.models.adapters.formats.neutral import Lora
from simpletuner.storage.local import LocalStore
from simpletuner.training.metadata import private


@click.command("export")
@click.argument("file")
@click.option("-f", "--format", "format", type=click.Choice(list(FORMATS)), required=True, help="The names to write.")
@click.option("-o", "--output", help="The file to write; beside FILE, with the format in its name, unless given.")
@click.option("--check", "is_checked", is_flag=True, help="Compare what both files add to every weight.")
@click.option("--private", "is_private", is_flag=True, help="Leave names, prompts, folders and tags out of the header.")
def command(file: str, format: str, output: str | None, is_checked: bool, is_private: bool) -> None:
    """Write an adapter in the format of another program.

    FILE is an adapter of any program: diffusers and PEFT, sd-scripts (kohya), ComfyUI, XLabs, OneTrainer. The exit
    code is 1 when --check finds that the new file does not do the same.
    """
    try:
        source = find(Path(file).expanduser())
        lora = read_adapter(source)
        target = _target(source, format, output)
        header = kept(lora.header)
        data = encode(lora, format, private(header) if is_private else header)
    except ModelError as error:
        raise click.UsageError(str(error)) from error
    LocalStore(target.parent).write(target.name, data)
    click.echo(f"{target}: {_counted(lora)}, {format} format")
    _tell_reread(lora, read_adapter(target), is_checked)


def _target(source: Path, format: str, output: str | None) -> Path:
    target = Path(output).expanduser() if output else source.with_name(f"{source.stem}-{format}.safetensors")
    if target.suffix != ".safetensors":
        raise click.UsageError(f"'{target}' must end in .safetensors")
    if target.exists():
        raise click.UsageError(f"'{target}' exists already; choose another --output")
    return target


def _counted(lora: Lora) -> str:
    count = len(lora.layers)
    return f"{count} layer{'s' if count > 1 else ''}"


def _tell_reread(lora: Lora, written: Lora, is_checked: bool) -> None:
    """Say whether the file that was written holds what was read."""
    if lora.layers.keys() != written.layers.keys():
        odd = sorted(lora.layers.keys() ^ written.layers.keys())
        _tell_different(f"{len(odd)} layers are in only one of the files, such as {odd[0]}")
    if is_checked:
        _tell_compared(compare(lora, written))


def _tell_compared(found: Comparison) -> None:
    if found.apart:
        name = max(found.apart, key=lambda name: found.apart[name])
        _tell_different(f"{len(found.apart)} of {found.layers} layers differ, most of all {name}: {found.largest:.1e}")
    click.echo(f"checked: all {found.layers} layers add the same to the model; largest difference {found.largest:.0e}")


def _tell_different(what: str) -> None:
    click.echo(f"the new file does not do the same: {what}", err=True)
    raise click.exceptions.Exit(1)
