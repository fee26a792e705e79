"""What is wrong with tables that are on this machine, found by looking at them before a run starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from simpletuner.data import plan
from simpletuner.data.entries import where
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import Csv, DataBackend, DataEntry
from simpletuner.data.tables.catalog import Catalogued
from simpletuner.data.web import url_list
from simpletuner.errors import DataError, Problem


def wrong_tables(entries: Sequence[DataEntry], defaults: DataDefaults) -> list[Problem]:
    """Tables that cannot be read or lack a column; this looks at the disk, but at no large file as a whole."""
    found = []
    for entry in entries:
        if isinstance(entry, DataBackend) and not entry.not_yet:
            for option, error in _errors(entry, defaults):
                what = str(error).removeprefix(f"data set '{entry.id}': ").removesuffix(".")
                found.append(Problem(where(entry, option), what))
    return found


def _errors(entry: DataBackend, defaults: DataDefaults) -> Iterator[tuple[str, DataError]]:
    if isinstance(entry, Csv) and _is_small(entry.csv_file):
        try:
            url_list.read(entry.csv_file, url_list.Columns(entry.csv_url_column, entry.csv_caption_column))
        except DataError as error:
            yield "csv_file", error
    columns = plan.table_columns(entry, defaults)
    if columns is not None and _is_quick(Path(columns.path).expanduser()):
        try:
            Catalogued(entry.open(), columns, id=entry.id).check()
        except DataError as error:
            yield "parquet", error


def _is_quick(table: Path) -> bool:
    """Whether the columns of a table are found without reading much: Parquet names them in one place."""
    return table.is_file() and (table.suffix.lower() == ".parquet" or _is_small(table))


def _is_small(table: Path) -> bool:
    return table.is_file() and table.stat().st_size <= _SMALL


_SMALL = 2**24
