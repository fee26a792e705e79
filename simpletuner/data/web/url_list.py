"""A table of images in a text file, as spreadsheets and data sets come: any usual separator and encoding."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from simpletuner.data.web.connections import shown
from simpletuner.errors import DataError
from simpletuner.schema import did_you_mean


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called; letters may be small or large."""

    url: str
    caption: str


@dataclass(frozen=True)
class UrlList:
    """The images of a table, each once, in the order in which they first appear."""

    images: Mapping[str, tuple[str, ...]]
    """By address, the caption of each row that has this address and a caption, without repetitions."""
    without_address: int
    """Rows that name no image."""


def read(path: Path, columns: Columns) -> UrlList:
    """Read a table; a DataError says what is wrong with it and in which line.

    Rows with the same address are one image, and their captions are alternatives. Lines without anything are passed
    over. A row with more cells than the first line has names is an error, because a caption with a separator in it
    would be cut off there.
    """
    try:
        with path.open(encoding=_encoding(path), errors="replace", newline="") as file:
            return _read(path, file, columns)
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}. Check csv_file.") from error


def _read(path: Path, file: IO[str], columns: Columns) -> UrlList:
    skipped, header = next(((number, line) for number, line in enumerate(file, 1) if line.strip()), (0, ""))
    separator = _separator(header, columns)
    names = _cells(header, separator)
    at = _places(path, names, columns)
    images: dict[str, tuple[str, ...]] = {}
    blank = 0
    for cells in _rows(path, _Lines(file, skipped), separator, len(names)):
        address, caption = (cells[place].strip() if place < len(cells) else "" for place in at)
        known = images.setdefault(address, ()) if address else ()
        if not address:
            blank += 1
        elif caption and caption not in known:
            images[address] = (*known, caption)
    return UrlList(images, blank)


class _Lines:
    """The lines of a table after its first one, then one more that shows whether the table ends inside a cell."""

    def __init__(self, file: IO[str], number: int) -> None:
        self.number = number
        self._file = file

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            yield line
        yield _END


def _rows(path: Path, lines: _Lines, separator: str, width: int) -> Iterator[Sequence[str]]:
    """Every row that has anything in it; a DataError after the last one when some cannot be what was meant."""
    wide: list[int] = []
    here = start = lines.number + 1
    cells: list[str] = []
    try:
        for cells in csv.reader(lines, delimiter=separator):
            here, start = start, lines.number + 1
            if len(cells) > width and any(map(str.strip, cells[width:])):
                wide.append(here)
            elif cells != [_END] and any(map(str.strip, cells)):
                yield cells
    except csv.Error as error:
        raise _never_closed(path, start) from error
    if cells != [_END]:
        raise _never_closed(path, here)
    if wide:
        raise _too_wide(path, wide, width, separator)


def _never_closed(path: Path, line: int) -> DataError:
    return DataError(
        f"csv_file {path} cannot be read from line {line} on: a quotation mark is opened there and never closed. "
        f"Close it; a quotation mark inside a quoted caption is written twice."
    )


def _too_wide(path: Path, lines: Sequence[int], width: int, separator: str) -> DataError:
    some = ", ".join(str(line) for line in islice(lines, _SHOWN))
    return DataError(
        f"csv_file {path} has {len(lines)} rows with more than the {width} cells that its first line names, in line "
        f"{some}{', ...' if len(lines) > _SHOWN else ''}. Put captions that contain {_SEPARATORS[separator]} into "
        f"quotation marks."
    )


def _places(path: Path, names: Sequence[str], columns: Columns) -> tuple[int, int]:
    """Where the two columns are; one error for both when they are not there."""
    wanted = {"csv_url_column": columns.url, "csv_caption_column": columns.caption}
    lacking = [f"{option} '{name}'" for option, name in wanted.items() if _place(names, name) is None]
    if lacking:
        hint = "".join(did_you_mean(name, names) for name in wanted.values() if _place(names, name) is None)
        raise DataError(
            f"csv_file {path} has no column for {' and '.join(lacking)}; {hint}its columns are "
            f"{', '.join(map(_printable, names)) or 'not named: the file is empty'}. The first line must name them."
        )
    twice = [name for name, count in Counter(names).items() if count > 1 and name in wanted.values()]
    if twice:
        raise DataError(f"csv_file {path} has the column {_printable(twice[0])} twice; rename one of them.")
    return _place(names, columns.url) or 0, _place(names, columns.caption) or 0


def _place(names: Sequence[str], wanted: str) -> int | None:
    """The column of a name: as it is written, or else the only one that differs in small and large letters alone."""
    if wanted in names:
        return names.index(wanted)
    near = [place for place, name in enumerate(names) if name.casefold() == wanted.casefold()]
    return near[0] if len(near) == 1 else None


def _separator(header: str, columns: Columns) -> str:
    """The separator with which the first line has the wanted columns, or else the most columns."""

    def fits(separator: str) -> tuple[int, int]:
        names = _cells(header, separator)
        known = [_place(names, name) is not None for name in (columns.url, columns.caption)]
        return sum(known), len(names)

    return max(_SEPARATORS, key=fits)


def _cells(line: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return [line.strip()]


def _printable(name: str) -> str:
    """The name of a column; what looks like an address loses what may be secret in it."""
    text = shown(name) if re.search(r"://", name) else name
    return f"'{text}'" if len(text) <= _LONGEST else f"'{text[:_LONGEST]}...'"


def _encoding(path: Path) -> str:
    """UTF-8, UTF-16 with its mark, or else the Windows alphabet."""
    decode = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        if file.read(2) in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
            return "utf-16"
        file.seek(0)
        try:
            while part := file.read(_PART):
                decode.decode(part)
            decode.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"


_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

_END = "\0the end\0"

_SHOWN = 5
_LONGEST = 60
_PART = 2**20
