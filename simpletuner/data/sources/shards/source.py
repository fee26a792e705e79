"""Images in tar shards as a place with images: each is read by range, where the index of its shard says it is."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import BinaryIO

import xxhash

from simpletuner.data.items import Item
from simpletuner.data.lanes import together
from simpletuner.data.sources.shards.index import Index, Picture, make, read
from simpletuner.data.sources.shards.places import Place, Shard
from simpletuner.data.tables.said import stamped
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, Notice, Reporter, StageStarted
from simpletuner.storage.memory import MemoryStore
from simpletuner.storage.ranged import open_ranged
from simpletuner.storage.store import Store


@dataclass(frozen=True)
class _Positions:
    """Where each image is, in columns: a million of them take little memory."""

    row: dict[str, int] = field(default_factory=dict)
    shard: array[int] = field(default_factory=lambda: array("L"))
    offset: array[int] = field(default_factory=lambda: array("Q"))
    length: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, key: str, shard: int, picture: Picture) -> None:
        self.row[key] = len(self.shard)
        self.shard.append(shard)
        self.offset.append(picture.offset)
        self.length.append(picture.length)


class Shards:
    """Lists and reads the images in the shards of a place; each shard is looked through once, and its index kept."""

    def __init__(
        self,
        place: Place,
        *,
        id: str,
        indexes: Place | None = None,
        store: Store | None = None,
        caption_keys: Sequence[str] = (),
        max_file_size: int = 500 * 2**20,
        at_once: int = 4,
    ) -> None:
        """Nothing is asked for here.

        Args:
            place: Where the shards are.
            id: The data set, for messages.
            indexes: Where ready indexes are, if not beside the shards.
            store: Keeps indexes between runs.
            caption_keys: Which keys of .json files in the shards are captions; the usual ones unless given.
            max_file_size: Larger images are left out, in bytes.
            at_once: How many shards are looked through at once.
        """
        self.lanes = place.lanes
        self._place = place
        self._id = id
        self._ready = indexes or place
        self._passing = MemoryStore()
        self._store = store or self._passing
        self._caption_keys = tuple(caption_keys)
        self._max_file_size = max_file_size
        self._at_once = at_once
        self._endless: list[str] = []

    def prepare(self, reporter: Reporter) -> None:
        """Look through the shards that have no index yet."""
        unknown = [shard for shard in self._shards if self._keys[shard.name] not in self._keeper(shard)]
        if not unknown:
            return
        reporter.report(StageStarted(f"looking through the shards of data set '{self._id}'", len(unknown)))
        for _ in together(self._at_once, self._index, unknown):
            reporter.report(Advanced(1))

    def items(self) -> Iterator[Item]:
        """Every image of every shard, and the shards that are damaged."""
        self._endless = []
        for shard, index in self._indexes():
            if not index.is_ended:
                self._endless.append(shard.name)
            for picture in index.pictures:
                yield self._item(shard, picture)
            if index.problem:
                yield Item(shard.name, stamped(shard.version, "damaged"), shard.size, problem=index.problem)

    def tell(self, reporter: Reporter) -> None:
        """Say which shards may have been cut off between two files."""
        if not self._endless:
            return
        count, some = len(self._endless), ", ".join(self._endless[:_SHOWN])
        told = f"{count} shards have no end mark" if count > 1 else "1 shard has no end mark"
        text = f"{told} and may be cut off between two files: {some}{', ...' if count > _SHOWN else ''}"
        reporter.report(Notice(f"data set '{self._id}': {text}. Compare its size with the original's"))

    def read(self, key: str) -> bytes:
        """The image file, which is all that is read of its shard."""
        shard, offset, length = self._find(key)
        data = self._place.fetch(shard, offset, length)
        if len(data) < length:
            raise DataError(f"{self.name(key)}: its shard ends in the middle of it. Fetch the shard anew.")
        return data

    def open(self, key: str) -> BinaryIO:
        """The image file; only what is looked at is read."""
        shard, offset, length = self._find(key)
        return open_ranged(lambda start, size: self._place.fetch(shard, offset + start, size), b"", length)

    def name(self, key: str) -> str:
        """The shard and the name in it."""
        found = self._positions.row.get(key) if key else None
        if found is None:
            return self._place.where(key)
        shard = self._shards[self._positions.shard[found]]
        return f"{self._place.where(shard.name)}:{key.removeprefix(shard.stem + '/')}"

    @cached_property
    def _shards(self) -> Sequence[Shard]:
        try:
            found = self._place.shards()
        except DataError as error:
            raise DataError(f"data set '{self._id}': {error}") from error
        if found:
            return found
        where = self._place.where("")
        raise DataError(f"data set '{self._id}': there are no .tar files in {where}. Check source and subfolder.")

    @cached_property
    def _keys(self) -> Mapping[str, str]:
        """Under which key the index of each shard is kept: it names everything that the index is made of."""
        keys = together(self.lanes, self._key, self._shards)
        return {shard.name: key for shard, key in zip(self._shards, keys, strict=True)}

    @cached_property
    def _positions(self) -> _Positions:
        numbers = {shard.name: number for number, shard in enumerate(self._shards)}
        positions = _Positions()
        for shard, index in self._indexes():
            for picture in index.pictures:
                positions.add(f"{shard.stem}/{picture.name}", numbers[shard.name], picture)
        return positions

    def _find(self, key: str) -> tuple[Shard, int, int]:
        positions = self._positions
        row = positions.row.get(key)
        if row is None:
            raise DataError(f"data set '{self._id}' has no {key} any more: its shards have changed. Start again.")
        return self._shards[positions.shard[row]], positions.offset[row], positions.length[row]

    def _item(self, shard: Shard, picture: Picture) -> Item:
        is_large = picture.length > self._max_file_size
        problem = f"larger than max_file_size ({self._max_file_size:,} bytes)" if is_large else ""
        return Item(
            f"{shard.stem}/{picture.name}",
            stamped(shard.version, picture.offset, picture.length, *([problem] if problem else [])),
            picture.length,
            digest=picture.digest,
            size=picture.size,
            captions=picture.captions,
            problem=problem,
        )

    def _indexes(self) -> Iterator[tuple[Shard, Index]]:
        """Each shard with its index, in order."""
        return zip(self._shards, together(self._at_once, self._index, self._shards), strict=True)

    def _index(self, shard: Shard) -> Index:
        """The index of a shard: the one that is kept, or a new one."""
        keeper, key = self._keeper(shard), self._keys[shard.name]
        try:
            return read(keeper.read(key))
        except (KeyError, ValueError):  # there is none, or its file is damaged
            ready = self._ready.index(shard)
            made = make(self._place, shard, ready=ready, caption_keys=self._caption_keys)
            keeper.write(key, made)
            return read(made)

    def _keeper(self, shard: Shard) -> Store:
        """Where the index of a shard is kept; only for this run when nobody can tell whether the shard changes."""
        return self._store if shard.version else self._passing

    def _key(self, shard: Shard) -> str:
        ready = f"{self._ready.where('')} {self._ready.index_version(shard)}"
        told = [self._place.where(shard.name), ready, str(shard.size), shard.version, *self._caption_keys]
        return f"{PurePosixPath(shard.stem).name}-{xxhash.xxh3_64_hexdigest(chr(10).join(told).encode())}.json"


_SHOWN = 3
