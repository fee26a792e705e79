"""Tables about images, column by column: Parquet, JSON lines, CSV, and the JSON files of sd-scripts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, overload

from simpletuner.data.captions.spelling import decode_text
from simpletuner.data.tables.said import texts, within
from simpletuner.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


class Table(Protocol):
    """Rows under named columns."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""

    def column(self, path: str) -> Sequence[object]:
        """What each row says in a column; `a.b` is the part `b` of the objects in the column `a`."""


def read(name: str, content: Path | bytes) -> Table:
    """A table by the ending of its name; a DataError says why it cannot be read."""
    suffix = PurePosixPath(name).suffix.lower()
    try:
        if isinstance(content, Path) and content.is_dir():
            return _folder(name, content)
        if suffix not in _KINDS:
            raise DataError(f"table {name} is none of the kinds that can be read: {', '.join(_KINDS)}.")
        return _KINDS[suffix](content)
    except _BadLine as error:
        raise DataError(f"table {name} cannot be read: {error}. Correct that line.") from error
    # ValueError: what is not JSON, and what pyarrow says of damaged files.
    except (OSError, ValueError, csv.Error) as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
        raise DataError(f"table {name} cannot be read: {reason}. Check the path of the table.") from error


@dataclass(frozen=True)
class Rows:
    """A table of objects, such as the lines of a JSON file."""

    rows: Sequence[Mapping[str, object]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every name that occurs."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, path: str) -> Sequence[object]:
        """What each row says; rows that say nothing have None."""
        return [within(row, path) for row in self.rows]


class ArrowTable:
    """A table of which a column is loaded when it is asked for."""

    def __init__(self, dataset: Any) -> None:  # Any: pyarrow has no types
        self._dataset = dataset
        self.columns: tuple[str, ...] = tuple(dataset.schema.names)

    def column(self, path: str) -> Sequence[object]:
        """What each row says; cells become Python objects when they are looked at."""
        head = path if path in self.columns else path.partition(".")[0]
        return _Cells(self._dataset.to_table(columns=[head]).column(0), head, path)


class _Cells(Sequence[object]):
    """The cells of a column, which stay in Arrow: a million captions take no more memory than their letters."""

    def __init__(self, cells: pa.ChunkedArray, head: str, path: str) -> None:
        self._cells, self._head, self._path = cells, head, path

    def __len__(self) -> int:
        return len(self._cells)

    @overload
    def __getitem__(self, at: int) -> object: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[object]: ...
    def __getitem__(self, at: int | slice) -> object:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        return within({self._head: self._cells[at].as_py()}, self._path)

    def __iter__(self) -> Iterator[object]:
        for cell in self._cells.to_pylist():
            yield within({self._head: cell}, self._path)


class _BadLine(ValueError):
    """One line of a table is wrong, and the path of the table is right."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"line {number} {what}")
        self.number = number


def _folder(name: str, path: Path) -> Table:
    """A table in several Parquet files."""
    found = _arrow(path)
    if not found.columns:
        raise DataError(f"table {name} is a folder without Parquet files; name the table itself in path.")
    return found


def _arrow(content: Path | bytes) -> Table:
    import pyarrow as pa
    import pyarrow.dataset as arrow
    import pyarrow.parquet as pq

    if isinstance(content, bytes):
        return ArrowTable(arrow.dataset(pq.read_table(pa.BufferReader(content))))
    return ArrowTable(arrow.dataset(content, format="parquet", exclude_invalid_files=content.is_dir()))


def _json_lines(content: Path | bytes) -> Table:
    lines = enumerate(decode_text(_bytes(content)).split("\n"), 1)
    return Rows([_object(number, line) for number, line in lines if line.strip()])


def _object(number: int, line: str) -> Mapping[str, object]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise _BadLine(number, f"is not JSON ({error.msg.lower()} at character {error.pos + 1})") from error
    if not isinstance(found, dict):
        raise _BadLine(number, "is no JSON object with names and values")
    return found


def _json(content: Path | bytes) -> Table:
    """A list of objects, or an object that says something about each file; JSON lines under a wrong name too."""
    text = decode_text(_bytes(content))
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        try:
            return _json_lines(content)
        except _BadLine as bad:
            if bad.number > 1:  # the first line is an object of its own, so these are JSON lines
                raise
        raise _BadLine(error.lineno, f"is not JSON ({error.msg.lower()} at character {error.colno})") from error
    if isinstance(found, dict) and all(isinstance(value, (str, list, dict)) for value in found.values()):
        return Rows([_about(name, value) for name, value in found.items()])
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return Rows(found)
    raise ValueError("it is neither a list of objects nor an object with something about each file")


def _about(name: str, value: str | list[object] | Mapping[str, object]) -> Mapping[str, object]:
    """A row of the metadata files of sd-scripts: the name of a file, and its caption, its tags, or both."""
    if not isinstance(value, Mapping):
        return {_NAME: name, "caption": value}
    tags = ", ".join(texts(value.get("tags")))
    captions = [line for text in texts(value.get("caption")) for line in text.splitlines()]
    joined = [f"{caption}, {tags}" if tags else caption for caption in captions] or [tags]
    return {_NAME: name, **value, "caption": joined}


def _csv(content: Path | bytes) -> Table:
    text = decode_text(_bytes(content))
    first = text.partition("\n")[0]
    separator = max(",;\t|", key=first.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restkey=_TOO_MANY)
    found = []
    for row in rows:
        if _TOO_MANY in row:
            raise _BadLine(rows.line_num, "has more cells than the first line; quote texts with separators")
        found.append(row)
    return Rows(found)


def _bytes(content: Path | bytes) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


_NAME = "id"
_TOO_MANY = "\0"

_KINDS = {
    ".parquet": _arrow,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
}
