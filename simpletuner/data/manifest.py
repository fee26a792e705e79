"""What is known about the files of a source, kept between runs, so that only new and changed files are opened.

A scan reads the head of each image; digests of whole files are made later, and only for images that are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import xxhash

from simpletuner.data import images
from simpletuner.data.captions import decode_text
from simpletuner.data.items import Item, Size
from simpletuner.data.sources.base import CAPTION_SUFFIX, IMAGE_SUFFIXES, Source
from simpletuner.errors import DataError
from simpletuner.storage.local import LocalStore


class Row(NamedTuple):
    """Everything that is known about one image file."""

    key: str
    version: str
    size_bytes: int
    width: int = 0
    height: int = 0
    problem: str = ""
    """Why it cannot be used at all; empty when it can."""
    digest: str = ""
    """Of its bytes; empty as long as nobody needed it."""
    caption_version: str = ""
    caption: str | None = None
    """The content of the caption file beside it."""

    @property
    def size(self) -> Size:
        """Width and height, upright."""
        return Size(self.width, self.height)


class Skipped(NamedTuple):
    """An image that takes no part in training."""

    key: str
    reason: str
    """In words that are the same for all images of which this is true, so that they can be counted."""
    detail: str = ""


@dataclass(frozen=True)
class Manifest:
    """The rows of one source by key, and the file that keeps them."""

    path: Path
    rows: tuple[Row, ...]

    def with_digests(self, source: Source, keys: Iterable[str], *, advance: Callable[[int], None]) -> Manifest:
        """The same with digests for these images; what is found is saved again and again on the way."""
        wanted, rows, unsaved = set(keys), list(self.rows), 0
        for number, row in enumerate(rows):
            if row.key in wanted and not row.digest:
                rows[number] = _digested(source, row)
                unsaved += row.size_bytes
                if unsaved > _SAVE_EVERY_BYTES:
                    _save(self.path, rows)
                    unsaved = 0
                advance(1)
        _save(self.path, rows)
        return Manifest(self.path, tuple(rows))

    def rejecting(self, reasons: dict[str, str]) -> Manifest:
        """The same, saved, with images that turned out to be damaged; they stay out until they change."""
        rows = [row._replace(problem=reasons[row.key]) if row.key in reasons else row for row in self.rows]
        _save(self.path, rows)
        return Manifest(self.path, tuple(rows))


def scan(
    source: Source, path: Path, *, with_captions: bool, known: Iterable[Row] = (), advance: Callable[[int], None]
) -> Manifest:
    """List a source, and open what is new or changed since the manifest at `path` was written.

    Args:
        source: Where the images are.
        path: The manifest; made when it does not exist yet, and saved now and then during the scan.
        with_captions: Whether caption files beside the images are read.
        known: Rows of another manifest of the same source.
        advance: Told how many more images are known now.
    """
    saved = _load(path)
    before = {row.key: row for row in (*known, *saved)}
    pictures, texts = _sorted_out(source.items())
    rows: list[Row] = []
    opened = 0
    for item in pictures:
        old = before.get(item.key)
        rows.append(_with_caption(source, _row(source, item, old), texts if with_captions else None))
        if rows[-1] is not old:
            opened += 1
            if opened % _SAVE_EVERY == 0:
                _save(path, [*rows, *_later(before, pictures[len(rows) :])])
        if len(rows) % _TELL_EVERY == 0:
            advance(_TELL_EVERY)
    advance(len(rows) % _TELL_EVERY)
    if rows != saved:
        _save(path, rows)
    return Manifest(path, tuple(rows))


def write_skip_list(path: Path, source: Source, skipped: Sequence[Skipped]) -> None:
    """Name every image that is left out and why, one a line; no list when there is nothing to tell."""
    write_table(path, [(source.name(entry.key), entry.reason, entry.detail) for entry in skipped])


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """A text file with one row a line and tabs between the cells; the file goes when there are no rows."""
    store = LocalStore(path.parent)
    if not rows:
        store.delete(path.name)
        return
    lines = ("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
    store.write(path.name, "".join(lines).encode("utf-8", errors="backslashreplace"))


def _sorted_out(items: Iterable[Item]) -> tuple[list[Item], dict[str, Item]]:
    """The images in the order of their keys, and the caption files by key without the ending."""
    pictures, texts = [], {}
    for item in items:
        if item.key.lower().endswith(CAPTION_SUFFIX):
            texts[item.key[: -len(CAPTION_SUFFIX)]] = item
        else:
            pictures.append(item)
    pictures.sort(key=lambda item: item.key)
    return pictures, texts


def _row(source: Source, item: Item, before: Row | None) -> Row:
    """What is known already when the file has not changed, else what its head says."""
    if before is not None and before.version == item.version and item.version:
        return before
    try:
        size = _probe(source, item)
    except DataError as error:
        return Row(item.key, item.version, item.size_bytes, problem=str(error))
    return Row(item.key, item.version, item.size_bytes, size.width, size.height)


def _probe(source: Source, item: Item) -> Size:
    if PurePosixPath(item.key).suffix.lower() not in IMAGE_SUFFIXES:
        raise images.Unreadable("pictures of this kind are not read; save it as PNG or JPEG")
    if not _is_text(item.key):
        raise images.Unreadable("its name is not valid UTF-8; rename it")
    if item.version and not item.size_bytes:
        raise images.Unreadable("the file is empty (0 bytes)")
    try:
        with source.open(item.key) as file:
            return images.probe(file)
    except OSError as error:
        raise images.Unreadable(f"it cannot be opened ({(error.strerror or str(error)).lower()})") from error


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_caption(source: Source, row: Row, texts: dict[str, Item] | None) -> Row:
    """The row with its caption file as it is now; without `texts` nobody asked for captions."""
    if texts is None or row.problem:
        return row
    item = texts.get(row.key.rpartition(".")[0])
    if item is None:
        return row if row.caption is None else row._replace(caption_version="", caption=None)
    if row.caption_version == item.version and item.version:
        return row
    return row._replace(caption_version=item.version, caption=decode_text(source.read(item.key)))


def _digested(source: Source, row: Row) -> Row:
    try:
        return row._replace(digest=xxhash.xxh3_128_hexdigest(source.read(row.key)))
    except DataError as error:
        return row._replace(problem=str(error))


def _later(known: dict[str, Row], pictures: Sequence[Item]) -> list[Row]:
    """What an earlier scan knew about files that this one has not reached yet."""
    return [known[item.key] for item in pictures if item.key in known]


def _load(path: Path) -> list[Row]:
    """The saved rows; none when there is no manifest, or one that another version wrote or that is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return []
    if (table.schema.metadata or {}).get(_FORMAT_KEY) != _FORMAT or table.column_names != list(Row._fields):
        return []
    return list(map(Row, *(column.to_pylist() for column in table.columns)))


def _save(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    keepable = [row for row in rows if _is_text(row.key)]
    types = [pa.string(), pa.string(), pa.int64(), pa.int32(), pa.int32(), *[pa.string()] * 4]
    fields = [pa.field(name, type) for name, type in zip(Row._fields, types, strict=True)]
    columns = list(zip(*keepable, strict=True)) or [()] * len(fields)
    schema = pa.schema(fields, metadata={_FORMAT_KEY: _FORMAT})
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table([list(column) for column in columns], schema=schema), buffer, compression="zstd")
    LocalStore(path.parent).write(path.name, buffer.getvalue().to_pybytes())


_SAVE_EVERY = 5000
_SAVE_EVERY_BYTES = 2**30
_TELL_EVERY = 500
_FORMAT_KEY = b"simpletuner.manifest"
_FORMAT = b"1"
