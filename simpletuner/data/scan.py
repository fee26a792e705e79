"""Listing a source and looking at what is new or changed in it; of each image only the head is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from simpletuner.data import images
from simpletuner.data.captions.spelling import composed, decode_text
from simpletuner.data.items import Item, Size
from simpletuner.data.lanes import together
from simpletuner.data.manifest import LEFT_OUT, Manifest, Places, Row, Saving, Skipped, load, save, table_of
from simpletuner.data.sources.base import IMAGE_SUFFIXES, Source
from simpletuner.errors import DataError
from simpletuner.storage.retries import Unreachable

if TYPE_CHECKING:
    import pyarrow as pa


def scan(
    source: Source,
    path: Path,
    *,
    caption_extension: str,
    with_captions: bool,
    known: pa.Table | None = None,
    begin: Callable[[int], None] = lambda count: None,
    advance: Callable[[int], None],
) -> Manifest:
    """List a source, and open what is new or changed since the manifest at `path` was written.

    Args:
        source: Where the images are.
        path: The manifest; made when it does not exist yet, and saved now and then during the scan.
        caption_extension: The ending of caption files.
        with_captions: Whether caption files are read.
        known: The columns of another manifest of the same source.
        begin: Told how many images are new or changed, before they are looked at.
        advance: Told how many more of them were looked at.
    """
    pictures, texts, nameless = _sorted_out(source.items(), caption_extension)
    before = load(path)
    known = before if known is None or len(before) else known
    captions = [_beside(item.key, texts) for item in pictures] if with_captions else None
    places = _places(known, pictures, captions)
    stale = int((places < 0).sum())
    if stale:
        begin(stale)
    table = _looked_at(source, path, pictures, captions, places, known, advance)
    table = _with_captions(table, pictures, from_files=with_captions)
    if table is not before and not table.equals(before):
        save(path, table)
    is_unread = (_beside(item.key, texts) for item in pictures) if texts and not with_captions else ()
    return Manifest(path, table, tuple(nameless), sum(one is not None for one in is_unread))


def _sorted_out(items: Iterable[Item], extension: str) -> tuple[list[Item], dict[str, Item], list[Skipped]]:
    """The images in the order of their keys, the caption files by key without the ending, and the unusable.

    Caption files stand there under their composed names too: a Mac may write é as e and an accent.
    """
    pictures, texts, nameless = list[Item](), dict[str, Item](), list[Skipped]()
    ending = extension.lower()
    for item in items:
        key = item[0]
        if key[-len(ending) :].lower() == ending:
            stem = key[: -len(ending)]
            texts[stem] = item
            if not stem.isascii():
                texts.setdefault(composed(stem), item)
        elif key.isascii() or _is_text(key):
            pictures.append(item)
        else:
            nameless.append(Skipped(key, "not readable as an image", "its name is not valid UTF-8; rename it"))
    pictures.sort(key=itemgetter(0))
    return pictures, texts, nameless


def _places(known: pa.Table, pictures: Sequence[Item], captions: Sequence[Item | None] | None) -> Places:
    """For each image the row of the known columns that still holds, or -1."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(known) or not pictures:
        return np.full(len(pictures), -1, dtype=np.int64)
    keys = pa.array([item.key for item in pictures], pa.string())
    known_keys = known.column("key").combine_chunks()
    is_same_list = len(keys) == len(known_keys) and keys.equals(known_keys)
    found = pa.array(np.arange(len(keys))) if is_same_list else pc.index_in(keys, known_keys)
    at = pc.fill_null(found, 0)
    versions = pa.array([item.version for item in pictures], pa.string())
    holds = pc.and_(pc.is_valid(found), pc.equal(known.column("version").take(at).combine_chunks(), versions))
    holds = pc.and_(holds, pc.not_equal(versions, ""))
    if captions is not None:
        written = pa.array(["" if one is None else one.version for one in captions], pa.string())
        holds = pc.and_(holds, pc.equal(known.column("caption_version").take(at).combine_chunks(), written))
    places: Places = np.where(holds.to_numpy(zero_copy_only=False), at.to_numpy(), -1).astype(np.int64)
    return places


def _looked_at(
    source: Source,
    path: Path,
    pictures: Sequence[Item],
    captions: Sequence[Item | None] | None,
    places: Places,
    known: pa.Table,
    advance: Callable[[int], None],
) -> pa.Table:
    """The columns of all images: what is known, and what is found out about the others."""
    stale = np.flatnonzero(places < 0).tolist()
    if not stale:
        return known if _is_whole(places, known) else known.take(places)
    earlier = _earlier(known, [pictures[number].key for number in stale])

    def look(number: int) -> Row:
        item = pictures[number]
        return _row(source, item, captions[number] if captions else None, earlier.get(item.key))

    def unfinished() -> pa.Table:
        waiting = [pictures[number].key for number in stale[len(found) :]]
        return _with_waiting(_joined(places, known, stale[: len(found)], found.table()), known, waiting)

    found, saving, told = _Found(), Saving(), 0
    for row in together(source.lanes, look, stale):
        found.add(row)
        if len(found) - told >= _TELL_EVERY:
            advance(len(found) - told)
            told = len(found)
            saving.when_due(lambda: save(path, unfinished()))
    advance(len(found) - told)
    return _joined(places, known, stale, found.table())


class _Found:
    """Rows that were found out: a few as values, and all before them as columns, which take less memory."""

    def __init__(self) -> None:
        self._pieces: list[pa.Table] = []
        self._rows: list[Row] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: Row) -> None:
        """Keep one more row."""
        self._rows.append(row)
        self._count += 1
        if len(self._rows) >= _PIECE:
            self._pieces.append(table_of(self._rows))
            self._rows = []

    def table(self) -> pa.Table:
        """The columns of all rows so far."""
        import pyarrow as pa

        return pa.concat_tables([*self._pieces, table_of(self._rows)])


def _is_whole(places: Places, known: pa.Table) -> bool:
    return len(places) == len(known) and bool((places == np.arange(len(known))).all())


def _earlier(known: pa.Table, keys: Sequence[str]) -> Mapping[str, Row]:
    """What was known about these files, which may have changed since."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(known):
        return {}
    mask = pc.is_in(known.column("key"), pa.array(keys, pa.string()))
    return {row.key: row for row in (Row(**cells) for cells in known.filter(mask).to_pylist())}


def _joined(places: Places, known: pa.Table, stale: Sequence[int], found: pa.Table) -> pa.Table:
    """Known rows and new ones, in the order of the images; images that nobody looked at yet are left out."""
    import pyarrow as pa

    at = places.copy()
    at[list(stale)] = len(known) + np.arange(len(found))
    return pa.concat_tables([known, found]).take(at[at >= 0]).combine_chunks()


def _with_waiting(table: pa.Table, known: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The same and what was known of files that are still to be looked at: most of it will turn out to hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(known):
        return table
    return pa.concat_tables([table, known.filter(pc.is_in(known.column("key"), pa.array(keys, pa.string())))])


def _row(source: Source, item: Item, text: Item | None, before: Row | None) -> Row:
    """One row; what is known of the picture stays when only its caption has changed."""
    is_known = before is not None and before.version == item.version and bool(item.version)
    row = before if before is not None and is_known else _new_row(source, item)
    if text is None:
        return row._replace(caption_version="", captions=item.captions)
    if row.caption_version == text.version and text.version:
        return row
    return row._replace(caption_version=text.version, captions=_said(source, text))


def _said(source: Source, text: Item) -> tuple[str, ...]:
    """The content of a caption file; nothing of one that is too large to be read, which opening tells of."""
    return () if text.size_bytes > LONGEST_CAPTION else (decode_text(source.read(text.key)),)


def _new_row(source: Source, item: Item) -> Row:
    row = Row(item.key, item.version, item.size_bytes, digest=item.digest)
    if item.problem:
        return row._replace(problem=f"{LEFT_OUT}{item.problem}")
    try:
        size = item.size or _probe(source, item)
    except Unreachable:
        raise
    except DataError as error:
        return row._replace(problem=str(error))
    return row._replace(width=size.width, height=size.height)


def _probe(source: Source, item: Item) -> Size:
    if PurePosixPath(item.key).suffix.lower() not in IMAGE_SUFFIXES:
        raise images.Unreadable("pictures of this kind are not read; save it as PNG or JPEG")
    if item.version and not item.size_bytes:
        raise images.Unreadable("the file is empty (0 bytes)")
    try:
        with source.open(item.key) as file:
            return images.probe(file)
    except OSError as error:
        raise images.Unreadable(f"it cannot be opened ({(error.strerror or str(error)).lower()})") from error


def _with_captions(table: pa.Table, pictures: Sequence[Item], *, from_files: bool) -> pa.Table:
    """The columns with what the source itself says about images now, where no caption file goes before that."""
    import pyarrow as pa
    import pyarrow.compute as pc

    said = [item.captions for item in pictures]
    told = np.array([one is not None for one in said], dtype=bool)
    without_file = pc.equal(table.column("caption_version"), "").to_numpy()
    stale = without_file & pc.is_valid(table.column("captions")).to_numpy() & ~told
    if not told.any() and not stale.any():
        return table
    concerned = without_file | (told & (not from_files))
    kept = [] if concerned.all() else table.column("captions").to_pylist()
    texts = [old if keep else new for old, keep, new in zip(kept, ~concerned, said, strict=True)] if kept else said
    versions = pc.if_else(pa.array(concerned), "", table.column("caption_version"))
    return _replaced(_replaced(table, "captions", texts), "caption_version", versions)


def _replaced(table: pa.Table, name: str, values: object) -> pa.Table:
    """The same with other cells in one column."""
    import pyarrow as pa

    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    column = pa.array(values, field.type) if isinstance(values, list) else values
    return table.set_column(place, field, column).combine_chunks()


def _beside(key: str, texts: Mapping[str, Item]) -> Item | None:
    """The caption file of an image."""
    stem = key[: key.rfind(".")]
    found = texts.get(stem)
    return texts.get(composed(stem)) if found is None and not stem.isascii() else found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


_TELL_EVERY = 100
LONGEST_CAPTION = 2**18
"""Larger files hold no caption, in bytes; their images have no captions in the manifest, and a version of them."""
_PIECE = 10_000
