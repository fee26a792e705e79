"""Joins a table about images, with captions and sizes, to the images of any other source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from posixpath import splitext
from typing import BinaryIO, NamedTuple

from simpletuner.data.captions.spelling import composed
from simpletuner.data.items import Item, Size
from simpletuner.data.sections import ParquetColumns
from simpletuner.data.sources.base import IMAGE_SUFFIXES, OTHER_PICTURES, Source, Telling
from simpletuner.data.tables import reading
from simpletuner.data.tables.said import first_said, size, stamped, texts
from simpletuner.data.web.downloads import Preparable
from simpletuner.errors import DataError
from simpletuner.progress import Notice, Reporter, StageStarted


class Columns(NamedTuple):
    """The columns that are used, by their roles."""

    name: str
    caption: str | None
    fallback: str | None
    width: str | None
    height: str | None
    both: str | None
    """A column with width and height in one, as in the metadata files of sd-scripts."""


class Catalogued:
    """The images of a source with what a table says about them; images that are not in it say so.

    Names in the table may be paths in the data set, whole paths, or names of files, with or without their ending.
    """

    def __init__(self, source: Source, columns: ParquetColumns, *, id: str = "") -> None:
        """Nothing is read here; `id` is the data set, for messages."""
        self.lanes = source.lanes
        self._source = source
        self._given = columns
        self._id = id
        self._used = bytearray()
        self._shared = 0

    def check(self, *, needs_captions: bool = False) -> None:
        """Raise a DataError when the table cannot be read, or has not the columns that are named or needed."""
        used = self._columns
        if needs_captions and not (used.caption or used.fallback):
            raise self._lacks("caption_column")

    def prepare(self, reporter: Reporter) -> None:
        """Do what the source itself has to do first, and read the table."""
        if isinstance(self._source, Preparable):
            self._source.prepare(reporter)
        reporter.report(StageStarted(f"reading table {self._given.path}", 0))
        _ = self._names

    def items(self) -> Iterator[Item]:
        """Every image with what the table says about it, and every caption file."""
        self._used, self._shared = bytearray(len(self._rows)), 0
        for item in self._source.items():
            is_picture = splitext(item.key)[1].lower() in _PICTURES and not item.problem
            yield self._described(item) if is_picture else item

    def read(self, key: str) -> bytes:
        """The whole content of a file."""
        return self._source.read(key)

    def open(self, key: str) -> BinaryIO:
        """The file itself, to look at its first bytes."""
        return self._source.open(key)

    def name(self, key: str) -> str:
        """Where a file is, as the user would look for it."""
        return self._source.name(key)

    def tell(self, reporter: Reporter) -> None:
        """Say what did not fit when the images were listed last: rows without an image, images that share a row."""
        if isinstance(self._source, Telling):
            self._source.tell(reporter)
        for text in self._remarks():
            reporter.report(Notice(f"data set '{self._id}': {text}"))

    def _remarks(self) -> Iterator[str]:
        lonely = [row for row, is_used in enumerate(self._used) if not is_used]
        if lonely:
            some = ", ".join(_text(self._rows[row]) or "a row without a name" for row in lonely[:_SHOWN])
            more = ", ..." if len(lonely) > _SHOWN else ""
            rows, belong = ("row", "belongs") if len(lonely) == 1 else ("rows", "belong")
            yield f"{len(lonely)} {rows} of table {self._given.path} {belong} to no image: {some}{more}"
        if self._shared:
            yield (
                f"{self._shared} {'image shares' if self._shared == 1 else 'images share'} a row of table "
                f"{self._given.path} with images of the same name in other folders; write paths into column "
                f"{self._columns.name} to tell them apart"
            )

    def _described(self, item: Item) -> Item:
        rows = self._rows_of(item.key)
        if not rows:
            problem = f"not in table {self._given.path}"
            return item._replace(problem=problem, version=stamped(item.version, problem))
        self._shared += self._used[rows[0]]
        for row in rows:
            self._used[row] = True
        found = self._size(rows[0])
        version = stamped(item.version, found) if found else item.version
        said = self._captions(rows)
        captions = item.captions if said is None else said
        return item._replace(version=version, size=found or item.size, captions=captions)

    def _rows_of(self, key: str) -> Sequence[int]:
        """The rows about an image: those with the most exact of its names."""
        names, exact = self._names, composed(key)
        for name in self._names_of(key):
            if name in names and (name == exact or self._can_be(names[name][0], exact)):
                return names[name]
        return ()

    def _names_of(self, key: str) -> Iterator[str]:
        exact = composed(key)
        for name in (exact, _plain(self._source.name(key)), exact.rpartition("/")[2]):
            yield name
            if not self._given.identifier_includes_extension:
                yield splitext(name)[0]

    def _can_be(self, row: int, key: str) -> bool:
        """Whether the folders in the name of a row, if there are any, allow that it is about this image."""
        name = _plain(_text(self._rows[row]))
        if "/" not in name or "/" not in key:
            return True
        return f"/{name}".endswith((f"/{key}", f"/{splitext(key)[0]}"))

    def _captions(self, rows: Sequence[int]) -> tuple[str, ...] | None:
        """What the table says in words; several rows about one image are alternatives."""
        columns = self._texts
        if not columns:
            return None
        said = [first_said(column[row] for column in columns) for row in rows]
        return said[0] if len(said) == 1 else texts(said)

    def _size(self, row: int) -> Size | None:
        width, height, both = self._columns.width, self._columns.height, self._columns.both
        if width and height:
            return size(self._cells[width][row], self._cells[height][row])
        edges = self._cells[both][row] if both else None
        return size(*edges) if isinstance(edges, (list, tuple)) and len(edges) == 2 else None

    @cached_property
    def _table(self) -> reading.Table:
        try:
            return reading.read(self._given.path, self._content())
        except DataError as error:
            raise DataError(f"data set '{self._id}': {error}") from error

    def _content(self) -> Path | bytes:
        """The table on this machine, or one that stands beside the images in a bucket."""
        path = Path(self._given.path).expanduser()
        if path.exists():
            return path
        try:
            return self._source.read(self._given.path)
        except DataError as error:
            where = f"neither on this machine nor in {self._source.name('')}"
            raise DataError(f"there is no table {self._given.path}, {where}. Change path in parquet.") from error

    @cached_property
    def _columns(self) -> Columns:
        """The columns that are used; one DataError tells of every name that is wrong."""
        roles, known = self._roles(), self._table.columns
        if not roles["filename_column"]:
            raise self._lacks("filename_column")
        wrong = [f"{role} '{name}'" for role, name in roles.items() if name and not _is_known(name, known)]
        if wrong:
            told = f"no {' and no '.join(wrong)}; its columns are {', '.join(known) or 'none'}"
            raise DataError(f"data set '{self._id}': table {self._given.path} has {told}.")
        return Columns(
            name=roles["filename_column"] or "",
            caption=roles["caption_column"],
            fallback=roles["fallback_caption_column"],
            width=roles["width_column"],
            height=roles["height_column"],
            both=_first_of(("image_size",), known),
        )

    def _lacks(self, option: str) -> DataError:
        known = ", ".join(self._table.columns) or "none"
        return DataError(
            f"data set '{self._id}': table {self._given.path} needs a {option}: none with a usual name is there; its "
            f"columns are {known}."
        )

    def _roles(self) -> Mapping[str, str | None]:
        """The columns that were named, and usual ones where none were."""
        given, known = self._given, self._table.columns
        has_caption = given.caption_column or given.fallback_caption_column
        has_name = "filename_column" in given.model_fields_set
        return {
            "filename_column": given.filename_column if has_name else _first_of(_USUAL_NAMES, known),
            "caption_column": given.caption_column if has_caption else _first_of(_USUAL_CAPTIONS, known),
            "fallback_caption_column": given.fallback_caption_column,
            "width_column": given.width_column,
            "height_column": given.height_column,
        }

    @cached_property
    def _cells(self) -> Mapping[str, Sequence[object]]:
        """The columns that are looked at for each image."""
        used = self._columns
        wanted = (used.caption, used.fallback, used.width, used.height, used.both)
        return {name: self._table.column(name) for name in wanted if name}

    @cached_property
    def _texts(self) -> Sequence[Sequence[object]]:
        """The columns with captions, the first choice first."""
        return [self._cells[name] for name in (self._columns.caption, self._columns.fallback) if name]

    @cached_property
    def _rows(self) -> Sequence[object]:
        """The name in each row."""
        return self._table.column(self._columns.name)

    @cached_property
    def _names(self) -> Mapping[str, Sequence[int]]:
        """The rows by their names, by what follows the folder that all have in common, and by the last part."""
        names = [_plain(_text(name)) for name in self._rows]
        exact = _numbered(enumerate(names))
        folder = _common_folder([name for name in names if name])
        if folder:
            exact = {**_numbered((row, name.removeprefix(folder)) for row, name in enumerate(names)), **exact}
        lasts = {number: name.rpartition("/")[2] for number, name in enumerate(names) if "/" in name}
        by_last = {last: rows for last, rows in _numbered(lasts.items()).items() if _is_one(rows, names)}
        return {**by_last, **exact}


def _numbered(pairs: Iterable[tuple[int, str]]) -> dict[str, Sequence[int]]:
    """The rows of each name; most names have one."""
    found: dict[str, Sequence[int]] = {}
    for row, name in pairs:
        if name:
            found[name] = (*found[name], row) if name in found else (row,)
    return found


def _is_one(rows: Sequence[int], names: Sequence[str]) -> bool:
    """Whether rows with an equal last part are about one and the same file."""
    return len({names[row] for row in rows}) == 1


def _common_folder(names: Sequence[str]) -> str:
    if not names:
        return ""
    common = os.path.commonprefix([min(names), max(names)])
    return common[: common.rfind("/") + 1]


def _text(name: object) -> str:
    """A name as text: a column of whole numbers with gaps comes as one of fractions."""
    if isinstance(name, float):
        return str(int(name)) if name.is_integer() else ""
    return "" if name is None else str(name)


def _plain(name: str) -> str:
    """A path as sources write it: with forward slashes, without a dot in front, and with composed letters."""
    return composed(name.strip().replace("\\", "/").removeprefix("./"))


def _first_of(names: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in names if name in known), None)


def _is_known(path: str, columns: Sequence[str]) -> bool:
    return path in columns or path.partition(".")[0] in columns


_PICTURES = IMAGE_SUFFIXES | OTHER_PICTURES
_USUAL_NAMES = ("id", "file_name", "filename", "image_path", "path", "file", "image", "name")
_USUAL_CAPTIONS = ("caption", "captions", "text", "prompt")
_SHOWN = 3
