"""Rows of a data set as a place with images: each row is a file named after its number.

Rows are read from memory-mapped Arrow files; images stay the bytes that they are, and listing decodes none of them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import xxhash

from simpletuner.data import images
from simpletuner.data.items import Item, Size
from simpletuner.data.sources.rows.columns import Columns, labels, settled
from simpletuner.data.sources.rows.filters import Rules, refusal
from simpletuner.data.sources.rows.foresight import foreseen
from simpletuner.data.sources.rows.kinds import Kinds, of_features
from simpletuner.data.sources.rows.load import Address, load
from simpletuner.data.tables.said import first_said, size, stamped, texts, within
from simpletuner.errors import DataError
from simpletuner.progress import Reporter, StageStarted
from simpletuner.storage.local import version_of
from simpletuner.storage.retries import Unreachable

if TYPE_CHECKING:
    import pyarrow as pa

    from datasets import Dataset


class Part(NamedTuple):
    """One of several pictures that stand side by side in an image."""

    number: int
    """Counted from 0, from the left."""
    of: int


@dataclass(frozen=True)
class Wanted:
    """Which rows of which data set are used, and what of them."""

    address: Address
    columns: Columns = Columns()
    rules: Rules = Rules()
    part: Part | None = None


class _Opened(NamedTuple):
    """A data set that is on this machine."""

    dataset: Dataset
    columns: Columns
    labels: Mapping[str, list[str]]
    stamp: str
    """Changes whenever the rows may have changed."""


class Rows:
    """Lists and reads the rows of a data set; nothing is loaded before it is needed."""

    lanes = 1

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def prepare(self, reporter: Reporter) -> None:
        """Fetch the data set, and check its columns: before it is fetched for the first time, if that is possible."""
        reporter.report(StageStarted(f"loading data set '{self._wanted.address.id}'", 0))
        if not self._wanted.address.is_kept:
            with suppress(Unreachable):  # loading will say so, or manage without
                self.check()
        _ = self._opened

    def items(self) -> Iterator[Item]:
        """Every row; those that are left out say why."""
        dataset, columns, _, _ = self._opened
        assert columns.image is not None
        names = dict.fromkeys([columns.image, *(_column(path, dataset.column_names) for path in columns.texts)])
        table = dataset.select_columns(list(names)).with_format("arrow")
        for start in range(0, len(dataset), _PAGE):
            yield from self._page(table[start : start + _PAGE], start)

    def read(self, key: str) -> bytes:
        """The file in a row, as it is; one picture cut out of it as a PNG."""
        data = self._file(self._number(key))
        return data if self._wanted.part is None else _cut(data, self._wanted.part, self.name(key))

    def open(self, key: str) -> BinaryIO:
        """The file in a row, to look at its first bytes."""
        return io.BytesIO(self.read(key))

    def name(self, key: str) -> str:
        """The data set and the file, which is named after the number of its row, counted from 0."""
        return f"{self._wanted.address}: {key}" if key else str(self._wanted.address)

    def check(self, *, needs_captions: bool = False) -> None:
        """Look at the columns without loading any row, as far as that is possible.

        Args:
            needs_captions: Whether it is wrong when no column has captions.

        Raises:
            Unreachable: The Hub does not say what there is.
            DataError: The rows that are asked for, or some of their columns, are not there.
        """
        found = foreseen(self._wanted.address)
        columns = None if found is None else self._settled(found)
        if needs_captions and found and columns and not (columns.captions or columns.fallbacks):
            raise self._wanted.address.error(
                f"needs a caption_column: none with a usual name is there; its columns are {', '.join(found)}."
            )

    def _settled(self, found: Kinds) -> Columns:
        asked = replace(self._wanted.columns, others=self._wanted.rules.columns(found))
        return settled(asked, found, self._wanted.address)

    @cached_property
    def _opened(self) -> _Opened:
        dataset = load(self._wanted.address)
        columns = self._settled(of_features(dataset.features.to_dict()))
        return _Opened(dataset, columns, labels(dataset), _stamp(dataset, columns, self._wanted.part))

    @cached_property
    def _table(self) -> Dataset:
        opened = self._opened
        assert opened.columns.image is not None
        return opened.dataset.select_columns([opened.columns.image]).with_format("arrow")

    def _page(self, page: pa.Table, start: int) -> Iterator[Item]:
        """The rows of one page of the table; bytes of images are counted, not read."""
        column = page.column(self._opened.columns.image)
        cells = [{}] * len(page) if page.num_columns == 1 else page.drop([self._opened.columns.image]).to_pylist()
        for offset, (size_bytes, path) in enumerate(zip(_lengths(column), _paths(column), strict=True)):
            yield self._item(start + offset, size_bytes, path, cells[offset])

    def _item(self, number: int, size_bytes: int | None, path: str | None, row: Mapping[str, object]) -> Item:
        version = stamped(self._opened.stamp, number)
        problem = ""
        if size_bytes is None:
            version, size_bytes, problem = _beside(version, path)
        known = self._size(row)
        problem = problem or refusal(row, known or self._looked_at(number), self._wanted.rules)
        return Item(
            f"{number}{_SUFFIX}",
            stamped(version, problem) if problem else version,
            size_bytes,
            size=known,
            captions=self._captions(row),
            problem=problem,
        )

    def _captions(self, row: Mapping[str, object]) -> tuple[str, ...] | None:
        columns = self._opened.columns
        if not columns.captions and not columns.fallbacks:
            return None
        found = texts([self._said(row, path) for path in columns.captions])
        return found or first_said(self._said(row, path) for path in columns.fallbacks)

    def _said(self, row: Mapping[str, object], path: str) -> object:
        value = within(row, path)
        words = self._opened.labels.get(path)
        return words[value] if words and isinstance(value, int) and 0 <= value < len(words) else value

    def _size(self, row: Mapping[str, object]) -> Size | None:
        columns, part = self._opened.columns, self._wanted.part
        found = size(within(row, columns.width or ""), within(row, columns.height or ""))
        return found if found is None or part is None else size(found.width // part.of, found.height)

    def _looked_at(self, number: int) -> Size | None:
        """The size as the head of the file says it, where rows are chosen by their size."""
        if not self._wanted.rules.needs_size:
            return None
        try:
            return images.probe(self.open(f"{number}{_SUFFIX}"))
        except DataError:  # the scan looks at it again, and tells
            return None

    def _number(self, key: str) -> int:
        number = key.removesuffix(_SUFFIX)
        if not number.isdecimal() or int(number) >= len(self._table):
            raise self._wanted.address.error(f"has no {key}: it has {len(self._table)} rows. Start the run anew.")
        return int(number)

    def _file(self, number: int) -> bytes:
        """The bytes in a row, or those of the file that it names."""
        cell = self._table[number : number + 1].column(0)[0].as_py()
        data, path = (cell["bytes"], cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if data is not None:
            return bytes(data)
        try:
            return Path(path or "").read_bytes()
        except OSError as error:
            where = self.name(f"{number}{_SUFFIX}")
            raise DataError(f"{where}: cannot read its file {path} ({(error.strerror or '').lower()})") from error


def _column(path: str, known: list[str]) -> str:
    return path if path in known else path.partition(".")[0]


def _lengths(column: pa.ChunkedArray) -> list[int | None]:
    """How many bytes each cell holds, without touching them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    held = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    lengths: list[int | None] = pc.binary_length(held).to_pylist()
    return lengths


def _paths(column: pa.ChunkedArray) -> list[str | None]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return [None] * len(column)
    paths: list[str | None] = pc.struct_field(column, "path").to_pylist()
    return paths


def _beside(version: str, path: str | None) -> tuple[str, int, str]:
    """Version, size and trouble of an image that is a file of its own."""
    if path is None:
        return version, 0, "its row holds no image"
    try:
        found = os.stat(path)
    except OSError:
        return version, 0, "the file that its row names is not there"
    return stamped(version, version_of(found)), found.st_size, ""


def _stamp(dataset: Dataset, columns: Columns, part: Part | None) -> str:
    """Names the content of a data set: its library's fingerprint, its files, and what is cut out of its images."""
    files = [Path(entry["filename"]) for entry in dataset.cache_files]
    told = [str(dataset._fingerprint), str(columns.image), str(part)]  # public in all but name: docs tell users of it
    told += [f"{path.name}:{version_of(path.stat())}" for path in files]
    return xxhash.xxh3_64_hexdigest("\n".join(told).encode())


def _cut(data: bytes, part: Part, name: str) -> bytes:
    """One of the pictures that stand side by side in an image."""
    image = images.decode(data, name)
    width = image.width // part.of
    left = width * part.number
    buffer = io.BytesIO()
    image.crop((left, 0, left + width, image.height)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


_PAGE = 1000
_SUFFIX = ".jpg"
"""Of every row; what its image really is, its content says."""
