"""What is wrong with tables that are on this machine, found by looking at them before a run starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from simpletuner.data import plan
from simpletuner.data.entries import where
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import Csv, DataBackend, DataEntry, Local
from simpletuner.data.sources.huggingface import HuggingFace
from simpletuner.data.tables.catalog import Catalogued
from simpletuner.data.web import url_list
from simpletuner.errors import DataError, Problem
from simpletuner.storage.retries import Unreachable


def wrong_tables(entries: Sequence[DataEntry], defaults: DataDefaults) -> list[Problem]:
    """Tables that cannot be read or lack a column; this looks at the disk, but at no large file as a whole."""
    found = []
    for entry in entries:
        if isinstance(entry, DataBackend) and not entry.not_yet:
            for option, error in _errors(entry, defaults):
                found.append(_problem(entry, option, error))
    return found


def on_hub(entries: Sequence[DataEntry]) -> list[HuggingFace]:
    """The data sets whose columns only the Hub knows; those that are not used are left out."""
    found = [entry for entry in entries if isinstance(entry, HuggingFace) and entry.probability > 0]
    return [entry for entry in found if not _is_path(entry.dataset_name)]


def wrong_rows(entries: Sequence[DataEntry], defaults: DataDefaults) -> tuple[list[Problem], list[str]]:
    """Data sets on the Hub that are not there or lack a column, and notes on those that could not be looked at."""
    found: list[Problem] = []
    notes: list[str] = []
    for entry in on_hub(entries):
        try:
            entry.open().check(needs_captions=_needs_captions(entry, defaults))
        except Unreachable as error:
            notes.append(str(error))
        except DataError as error:
            found.append(_problem(entry, "dataset_name", error))
    return found, notes


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).exists()


def _problem(entry: DataBackend, option: str, error: DataError) -> Problem:
    what = str(error).removeprefix(f"data set '{entry.id}': ").removeprefix(f"{option} ").removesuffix(".")
    return Problem(where(entry, option), what)


def _errors(entry: DataBackend, defaults: DataDefaults) -> Iterator[tuple[str, DataError]]:
    looks = {"csv_file": _address_list, "dataset_name": _rows_here, "parquet": _table}
    for option, look in looks.items():
        try:
            look(entry, defaults)
        except DataError as error:
            yield option, error


def _address_list(entry: DataBackend, defaults: DataDefaults) -> None:
    if isinstance(entry, Csv) and (_is_small(entry.csv_file) or not entry.csv_file.exists()):
        url_list.read(entry.csv_file, url_list.Columns(entry.csv_url_column, entry.csv_caption_column))


def _rows_here(entry: DataBackend, defaults: DataDefaults) -> None:
    if isinstance(entry, HuggingFace) and not on_hub([entry]):
        entry.open().check(needs_captions=_needs_captions(entry, defaults))


def _table(entry: DataBackend, defaults: DataDefaults) -> None:
    columns = plan.table_columns(entry, defaults)
    if columns is not None and _is_quick(Path(columns.path).expanduser(), entry):
        Catalogued(entry.open(), columns, id=entry.id).check(needs_captions=_needs_captions(entry, defaults))


def _needs_captions(entry: DataBackend, defaults: DataDefaults) -> bool:
    """Whether there are captions only if a column of a table has them."""
    rules = plan.caption_rules(entry, defaults)
    is_told_otherwise = rules.only_instance_prompt or rules.fallback or entry.dataset_type == "conditioning"
    return not is_told_otherwise and (entry.type, rules.strategy) in _BY_COLUMN


def _is_quick(table: Path, entry: DataBackend) -> bool:
    """Whether the columns of a table are found without reading much: Parquet names them in one place."""
    if isinstance(entry, Local) and entry.instance_data_dir.is_dir():
        table = table if table.exists() else entry.instance_data_dir / table
        if not table.exists():
            return True
    return table.is_file() and (table.suffix.lower() == ".parquet" or _is_small(table))


def _is_small(table: Path) -> bool:
    return table.is_file() and table.stat().st_size <= _SMALL


_SMALL = 2**24

_BY_COLUMN = {("local", "parquet"), ("aws", "parquet"), ("huggingface", "huggingface")}
"""Types of data sets and caption strategies for which a table alone has captions."""
