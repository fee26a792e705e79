"""What is known about the files of a source: columns in a Parquet file that lasts from run to run.

A million rows are some hundred megabytes in Arrow's memory and load in a second; as Python objects they would not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from simpletuner.data import faces, images
from simpletuner.data.items import Box, Size
from simpletuner.data.lanes import together
from simpletuner.data.seal import is_whole, sealed
from simpletuner.data.sources.base import Source
from simpletuner.errors import DataError
from simpletuner.storage.local import LocalStore
from simpletuner.storage.retries import Unreachable

if TYPE_CHECKING:
    import pyarrow as pa

LEFT_OUT = "left out: "
"""Begins the problem of an image that its source itself leaves out."""

Places = NDArray[np.int64]
"""Numbers of rows."""


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
    captions: Sequence[str] | None = None
    """The content of the caption file beside it, or what its source says about it."""
    face: Sequence[int] | None = None
    """Left, top, width and height of the largest face; empty when there is none, nothing when nobody looked."""

    @property
    def size(self) -> Size:
        """Width and height, upright."""
        return Size(self.width, self.height)


def digest_of(data: bytes) -> str:
    """What stands for the bytes of a file; digests that sources give look different."""
    return f"{_OF_BYTES}{xxhash.xxh3_128_hexdigest(data)}"


def is_digest_of(digest: str, data: bytes) -> bool:
    """Whether a file still has the bytes that its digest was made of; a digest of a source cannot tell, and agrees."""
    return not digest.startswith(_OF_BYTES) or digest == digest_of(data)


class Skipped(NamedTuple):
    """An image that takes no part in training."""

    key: str
    reason: str
    """In words that are the same for all images of which this is true, so that they can be counted."""
    detail: str = ""


@dataclass(frozen=True)
class Manifest:
    """The rows of one source in the order of their keys, and the file that keeps them."""

    path: Path
    table: pa.Table
    nameless: tuple[Skipped, ...] = ()
    """Files whose names cannot be written down, and so cannot be used."""
    unread: int = 0
    """How many images have a caption file beside them that is not read."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def row(self, place: int) -> Row:
        """One row as a value."""
        return Row(*(column[place].as_py() for column in self.table.columns))

    def text(self, name: str, place: int) -> str:
        """One cell of a column with text."""
        return str(self.table.column(name)[place].as_py())

    def numbers(self, name: str) -> NDArray[np.int64]:
        """A whole column of numbers."""
        return np.asarray(self.table.column(name).to_numpy(), dtype=np.int64)

    def is_empty(self, name: str) -> NDArray[np.bool_]:
        """For each row, whether its text in this column is empty."""
        import pyarrow.compute as pc

        return np.asarray(pc.equal(self.table.column(name), "").to_numpy())

    def with_digests(
        self, source: Source, places: Places, advance: Callable[[int], None], *, decoding: bool = False
    ) -> Manifest:
        """The same with digests for these rows; what is found is saved again and again on the way.

        With `decoding`, a file whose pixels cannot be decoded has a problem from then on, and no digest.
        """

        def look(place: int) -> dict[str, object]:
            key = self.text("key", place)
            data = source.read(key)
            if decoding:
                images.decode(data, source.name(key))
            return {"digest": digest_of(data)}

        return self._found_out(look, places, source.lanes, advance)

    def with_faces(self, source: Source, places: Places, advance: Callable[[int], None]) -> Manifest:
        """The same with the largest face of each of these images."""

        def look(place: int) -> dict[str, object]:
            key = self.text("key", place)
            box = faces.find(images.decode(source.read(key), source.name(key)))
            return {"face": list(box) if box else []}

        return self._found_out(look, places, source.lanes, advance)

    def face(self, place: int) -> Box | None:
        """The largest face of an image, if it has any."""
        found = self.table.column("face")[place].as_py()
        return Box(*found) if found else None

    def rejecting(self, reasons: Mapping[str, str]) -> Manifest:
        """The same, saved, with images that turned out to be damaged; they stay out until they change."""
        import pyarrow as pa
        import pyarrow.compute as pc

        places = pc.index_in(pa.array(list(reasons)), self.table.column("key").combine_chunks()).to_pylist()
        found = {place: {"problem": reason} for place, reason in zip(places, reasons.values(), strict=True)}
        return self._with(found).saved()

    def saved(self) -> Manifest:
        """The same, on the disk."""
        save(self.path, self.table)
        return self

    def _found_out(
        self,
        look: Callable[[int], dict[str, object]],
        places: Places,
        lanes: int,
        advance: Callable[[int], None],
    ) -> Manifest:
        """The same with what `look` finds out about some rows, or with the reason why it could not."""
        found: dict[int, dict[str, object]] = {}
        saving, told = Saving(), 0
        for place, outcome in zip(places.tolist(), together(lanes, _careful(look), places.tolist()), strict=True):
            found[place] = outcome
            if len(found) - told >= _TELL_EVERY:
                advance(len(found) - told)
                told = len(found)
                saving.when_due(lambda: self._with(found).saved())
        advance(len(found) - told)
        return self._with(found).saved() if found else self

    def _with(self, found: Mapping[int, Mapping[str, object]]) -> Manifest:
        """The same with some cells changed, by row and column."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.table
        for name in sorted({name for cells in found.values() for name in cells}):
            changed = sorted(place for place, cells in found.items() if name in cells)
            field = table.schema.field(name)
            if pa.types.is_list(field.type):
                cells = table.column(name).to_pylist()
                for place in changed:
                    cells[place] = found[place][name]
                column = pa.array(cells, field.type)
            else:
                mask = np.zeros(len(table), dtype=bool)
                mask[changed] = True
                values = pa.array([found[place][name] for place in changed], field.type)
                column = pc.replace_with_mask(table.column(name).combine_chunks(), mask, values)
            table = table.set_column(table.schema.get_field_index(name), field, column)
        return replace(self, table=table)


def _careful(look: Callable[[int], dict[str, object]]) -> Callable[[int], dict[str, object]]:
    """The same; a file that cannot be read is a finding too."""

    def found(place: int) -> dict[str, object]:
        try:
            return look(place)
        except Unreachable:
            raise
        except DataError as error:
            return {"problem": str(error)}

    return found


class Saving:
    """Saves unfinished work: often enough to lose little, seldom enough to cost little."""

    def __init__(self) -> None:
        self._saved = time.monotonic()
        self._cost = 0.0

    def when_due(self, work: Callable[[], object]) -> None:
        """Save by calling `work`, when enough time has passed since the last time."""
        began = time.monotonic()
        if began - self._saved > max(_SAVE_EVERY_SECONDS, _SAVE_AT_MOST * self._cost):
            work()
            self._saved = time.monotonic()
            self._cost = self._saved - began


def schema() -> pa.Schema:
    """The columns of a manifest."""
    import pyarrow as pa

    texts = ("key", "version", "problem", "digest", "caption_version")
    kinds = dict.fromkeys(texts, pa.string())
    kinds |= {"size_bytes": pa.int64(), "width": pa.int32(), "height": pa.int32()}
    kinds |= {"captions": pa.list_(pa.large_string()), "face": pa.list_(pa.int32())}  # a million pages of text fit
    return pa.schema([pa.field(name, kinds[name]) for name in Row._fields], metadata={_FORMAT_KEY: _FORMAT})


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Rows as columns."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) or [()] * len(Row._fields)
    return pa.table([list(column) for column in columns], schema=schema())


def load(path: Path) -> pa.Table:
    """The saved columns; none when there is no manifest, or one that another version wrote or that is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = schema()
    try:
        data = path.read_bytes()
        if not is_whole(data):
            return table_of([])
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            found = file.schema_arrow
            if (found.metadata or {}).get(_FORMAT_KEY) != _FORMAT or not found.equals(expected):
                return table_of([])
            # Column by column: putting the pieces of all of them together at once would take the memory twice.
            columns = [file.read(columns=[name]).column(0).combine_chunks() for name in expected.names]
    except (OSError, pa.ArrowException):
        return table_of([])
    return pa.table(columns, schema=expected)


def save(path: Path, table: pa.Table) -> None:
    """Put a manifest in place of the one before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    LocalStore(path.parent).write(path.name, sealed(buffer.getvalue().to_pybytes()))


_SAVE_EVERY_SECONDS = 5.0
_SAVE_AT_MOST = 20
"""Saving takes at most one in so many seconds."""
_TELL_EVERY = 100
_FORMAT_KEY = b"simpletuner.manifest"
_FORMAT = b"4"
_OF_BYTES = "xxh3-"
