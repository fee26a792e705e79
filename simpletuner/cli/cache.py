"""``simpletuner cache``: fill the caches of a config, check them, count what is in them, tidy them up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from simpletuner import plans
from simpletuner.caching import upkeep
from simpletuner.caching.importing import Imported, import_latents
from simpletuner.caching.importing_texts import TextShape, import_texts
from simpletuner.caching.upkeep import Place, Tally
from simpletuner.cli.caches import look, nothing
from simpletuner.cli.choosing import PASS_ON, selecting
from simpletuner.errors import ConfigError, Problem
from simpletuner.models import kept
from simpletuner.progress import Advanced, Reporter, StageStarted
from simpletuner.selection import Selection, find
from simpletuner.storage.store import Entry


@click.group("cache")
def command() -> None:
    """Fill, check or tidy up the caches of a config.

    Encoded images and captions are kept between runs. Every command takes a config as `simpletuner train` does.
    """


@command.command("build", context_settings=PASS_ON)
@selecting
def build(config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...]) -> None:
    """Encode what is missing, without training."""
    with look(config, env, example, overrides, only=None) as caches:
        for place in caches.places():
            found = upkeep.tally(place)
            left = f", {found.later:,} are left until they are needed" if found.later else ""
            click.echo(f"{found.name}: {_entries(found.needed)} ready{left}")


@command.command("verify", context_settings=PASS_ON)
@click.option("--no-rebuild", is_flag=True, help="Only name damaged entries; change nothing.")
@selecting
def verify(
    config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...], no_rebuild: bool
) -> None:
    """Find damaged entries and make exactly these anew.

    Every entry of the caches is read, to the last bit. The exit code is 1 when damaged entries remain.
    """
    with look(config, env, example, overrides, only=nothing) as caches:
        damaged = [(place, _damaged(place, caches.reporter)) for place in caches.places()]
    count = sum(len(found) for _, found in damaged)
    if not count:
        click.echo("Every entry is whole.")
        return
    if no_rebuild:
        click.echo(f"{_entries(count)} damaged; run it without --no-rebuild to make anew what is damaged.")
        raise click.exceptions.Exit(1)
    for place, found in damaged:
        for key in found:
            place.store.delete(key)
    lost = frozenset(key for _, found in damaged for key in found)
    with look(config, env, example, overrides, only=lost.__contains__) as caches:
        _tell_rebuilt(caches.places(), lost)


def _damaged(place: Place, reporter: Reporter) -> dict[str, str]:
    keys = [entry.key for entry in upkeep.entries(place.store)]
    reporter.report(StageStarted(f"reading {place.store.name}", len(keys)))
    found = upkeep.damaged(place.store, keys, lambda count: reporter.report(Advanced(count)))
    for key, reason in found.items():
        click.echo(f"damaged: {place.store.name}/{key}: {reason}")
    return found


def _tell_rebuilt(places: Sequence[Place], lost: frozenset[str]) -> None:
    made = sum(key in place.needed and key in place.store for place in places for key in lost)
    needed = sum(key in place.needed for place in places for key in lost)
    click.echo(f"{_entries(made)} made anew.")
    if needed > made:
        click.echo(f"{_entries(needed - made)} not made: the images cannot be read or are encoded on demand.")
    if len(lost) > needed:
        click.echo(f"{_entries(len(lost) - needed)} taken away, which this config does not need.")


@command.command("stats", context_settings=PASS_ON)
@selecting
def stats(config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...]) -> None:
    """Count what is there, what is needed and what is missing."""
    with look(config, env, example, overrides, only=nothing) as caches:
        for place in caches.places():
            click.echo(_table(upkeep.tally(place)))
        for what, why in (("captions", caches.prompts.why()), ("images", caches.latents.why())):
            click.echo(f"{what} that are missing: {why if why.total else 'none'}")


def _table(tally: Tally) -> str:
    rows = [
        ("needed", tally.needed, _bytes(tally.size - tally.surplus_size)),
        ("missing", tally.missing, ""),
        *([("made later", tally.later, "")] if tally.later else []),
        ("not needed", tally.surplus, _bytes(tally.surplus_size)),
        ("other files", tally.foreign, ""),
    ]
    lines = [f"  {name:12}{count:>12,}{size:>14}".rstrip() for name, count, size in rows]
    return "\n".join([f"{tally.name} ({' and '.join(tally.kinds)})", *lines, ""])


@command.command("gc", context_settings=PASS_ON)
@click.option("--yes", is_flag=True, help="Delete them; otherwise they are only counted.")
@click.option(
    "--also", "others", multiple=True, metavar="FILE", help="Keep what this config needs too; may be repeated."
)
@selecting
def gc(
    config: str | None,
    env: str | None,
    example: str | None,
    overrides: tuple[str, ...],
    yes: bool,
    others: tuple[str, ...],
) -> None:
    """Find what this config does not need.

    These are entries of the caches and packed models; they are counted, and deleted with --yes. Only what this program
    wrote is ever deleted. When several configs share a cache, name them with --also.
    """
    needed: set[str] = set()
    bases: set[Path] = set()
    for other in others:
        _refuse_nothing(other)
        with look(other, None, None, (), only=nothing) as caches:
            needed.update(key for place in caches.places() for key in place.needed)
            bases.update(caches.bases)
    with look(config, env, example, overrides, only=nothing) as caches:
        found = [(place, _unneeded(place, needed)) for place in caches.places()]
        models = kept.unneeded(plans.packed_folder(caches.config), {*bases, *caches.bases})
    for place, entries in found:
        _clear(place, entries, delete=yes)
    _clear_models(models, delete=yes)
    if (models or any(entries for _, entries in found)) and not yes:
        click.echo("Nothing was deleted. Other configs that share a cache may need them; delete them with --yes.")


def _refuse_nothing(other: str) -> None:
    """A config that is not there is named as it was given."""
    try:
        find(Selection(config=other), os.environ, Path.cwd())
    except ConfigError as error:
        told = [Problem(f"--also {other}", problem.what) for problem in error.problems]
        raise ConfigError(error.path, told) from error


def _unneeded(place: Place, needed: set[str]) -> list[Entry]:
    return [entry for entry in upkeep.surplus(place) if entry.key not in needed]


def _clear(place: Place, entries: Sequence[Entry], *, delete: bool) -> None:
    size = _bytes(sum(entry.size for entry in entries))
    click.echo(f"{place.store.name}: {_entries(len(entries))} not needed, {size}{'; deleted' if delete else ''}")
    if delete:
        for entry in entries:
            place.store.delete(entry.key)
        for half in upkeep.leftovers(place.store):
            half.unlink(missing_ok=True)


def _clear_models(folders: Sequence[Path], *, delete: bool) -> None:
    """Packed models are told only where there are some, because most configs have none."""
    if not folders:
        return
    size = _bytes(sum(path.stat().st_size for folder in folders for path in folder.iterdir()))
    count = "1 packed model" if len(folders) == 1 else f"{len(folders):,} packed models"
    click.echo(f"{folders[0].parent}: {count} not needed, {size}{'; deleted' if delete else ''}")
    for folder in folders if delete else ():
        shutil.rmtree(folder)


@command.command("import", context_settings=PASS_ON)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@selecting
def take_over(
    folder: Path, config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...]
) -> None:
    """Take over what other trainers have encoded.

    FOLDER is a cache folder of SimpleTuner, or the folder of images that sd-scripts has put its files beside. It is
    only read. What does not fit any more is named with the reason, and encoded anew by the next run.
    """
    with look(config, env, example, overrides, only=nothing) as caches:
        reporter, datasets = caches.reporter, caches.datasets
        objective = caches.config.objective
        shape = TextShape(objective.tokenizer_max_length or 512, is_padding_zero=objective.t5_padding == "zero")
        reporter.report(StageStarted("captions", len(caches.prompts.missing())))
        texts = import_texts(folder, datasets, caches.prompts, shape, _advance(reporter))
        reporter.report(StageStarted("images", sum(len(dataset.records) for dataset in datasets)))
        latents = import_latents(folder, datasets, caches.latents, _advance(reporter))
    _tell_imported(folder, texts, latents)


def _advance(reporter: Reporter) -> Callable[[int], None]:
    return lambda count: reporter.report(Advanced(count))


def _tell_imported(folder: Path, *found: Imported) -> None:
    for one in found:
        for origin, count in one.taken.items():
            click.echo(f"taken over: {count:,} {origin}")
        for reason, paths in one.refused.items():
            click.echo(f"left: {len(paths):,}, because {reason}; such as {paths[0]}")
    if any(origin.startswith("latents") for one in found for origin in one.taken):
        click.echo("These latents are one fixed draw of each image; what is encoded here is drawn anew for each use.")
    if not any(one.taken or one.refused for one in found):
        click.echo(f"There is nothing in {folder} that belongs to the images and captions of this config.")


def _entries(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _bytes(size: float) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:,.0f} {units[0]}" if units[0] == "bytes" else f"{size:,.1f} {units[0]}"
