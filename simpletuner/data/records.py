"""The images of a data set that take part in training, as columns: a record is put together when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from simpletuner.data import captions, geometry
from simpletuner.data.captions import Use
from simpletuner.data.items import Chances, Placement, Record, Size
from simpletuner.data.manifest import Manifest, Places, Row
from simpletuner.seeds import derive


@dataclass(frozen=True)
class Placer:
    """Decides what will happen to the pixels of each image of one data set."""

    rules: geometry.Rules
    seed: int
    id: str
    redraws: bool = False
    """Whether random crops are drawn anew for each epoch."""
    mirrors: bool = False
    """Whether half of the uses of an image have left and right swapped."""

    @property
    def is_shared(self) -> bool:
        """Whether images of one size are all placed alike."""
        return not (self.rules.draws_bucket or self.rules.draws_crop or self.rules.wants_faces)

    def plain(self, size: Size) -> Placement:
        """The placement where nothing depends on chance or on faces."""
        return geometry.place(size, self.rules)

    def placement(self, manifest: Manifest, place: int, key: str, size: Size, epoch: int) -> Placement:
        """The placement of one image in one epoch."""
        face = manifest.face(place) if self.rules.wants_faces else None
        return geometry.place(size, self.rules, chances=self._chances(key, epoch), face=face)

    def _chances(self, key: str, epoch: int) -> Chances:
        if not (self.rules.draws_bucket or self.rules.draws_crop):
            return Chances()
        again = (epoch,) if self.redraws and epoch else ()
        drawn = [derive(self.seed, f"crop {edge}", self.id, key, *again) for edge in ("left", "top")]
        aspect = derive(self.seed, "crop aspect", self.id, key)  # a bucket stays the same in every epoch
        return Chances(*(one / 2**63 for one in (*drawn, aspect)))


class Records(Sequence[Record]):
    """Records by number, in the order of their keys."""

    def __init__(
        self,
        manifest: Manifest,
        places: Places,
        placer: Placer,
        rules: captions.Rules,
        follows: Records | None = None,
    ) -> None:
        """The rows at `places` take part; `follows` has as many records, whose geometry is repeated."""
        self.manifest = manifest
        self.places = places
        self.placer = placer
        self.rules = rules
        self.follows = follows

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self.at(one) for one in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.at(index % len(self))

    def __iter__(self) -> Iterator[Record]:
        for index, row in enumerate(self.rows()):
            yield self._record(index, row, 0)

    def rows(self) -> Iterator[Row]:
        """What is known about the file of each record."""
        for start in range(0, len(self), _AT_ONCE):
            part = self.manifest.table.take(self.places[start : start + _AT_ONCE])
            for cells in zip(*(column.to_pylist() for column in part.columns), strict=True):
                yield Row(*cells)

    def at(self, index: int, epoch: int = 0, *, mirrored: bool = False) -> Record:
        """One record as it is in an epoch; without one, as it is in the first."""
        record = self._record(index, self.manifest.row(int(self.places[index])), epoch)
        return _mirrored(record) if mirrored else record

    @property
    def mirrors(self) -> bool:
        """Whether half of the uses of an image have left and right swapped."""
        return self.placer.mirrors if self.follows is None else self.follows.mirrors

    def pictures(self) -> Iterator[Record]:
        """Every record in every form that its image is used in."""
        for record in self:
            yield record
            if self.mirrors:
                yield _mirrored(record)

    def key(self, index: int) -> str:
        """The key of one record."""
        return self.manifest.text("key", int(self.places[index]))

    def all_keys(self) -> list[str]:
        """All keys."""
        found: list[str] = self.manifest.table.column("key").take(self.places).to_pylist()
        return found

    def digests(self) -> list[str]:
        """The digests of all files."""
        found: list[str] = self.manifest.table.column("digest").take(self.places).to_pylist()
        return found

    def unsure(self) -> Places:
        """The numbers of the records that may be without any caption; all others have one for certain."""
        says = _SURE.get(self.rules.strategy)
        if self.rules.only_instance_prompt or says is None:
            return np.arange(len(self))
        return np.flatnonzero(~says(self.manifest)[self.places])

    def caption(self, index: int, use: Use, seed: int) -> str:
        """The caption for one use of an image; empty when it is dropped."""
        row = self.manifest.row(int(self.places[index]))
        texts = _texts(row)
        return captions.chosen(captions.alternatives(row.key, texts, self.rules), row.key, texts, self.rules, use, seed)

    @cached_property
    def bucket_of(self) -> NDArray[np.int64]:
        """For each record the number of its bucket in `bucket_sizes`."""
        return self._bucketed[0]

    @cached_property
    def bucket_sizes(self) -> tuple[Size, ...]:
        """The sizes of all buckets, small ones first."""
        return self._bucketed[1]

    def buckets(self) -> Mapping[Size, int]:
        """How many images each bucket holds."""
        counts = np.bincount(self.bucket_of, minlength=len(self.bucket_sizes)).tolist()
        return dict(zip(self.bucket_sizes, counts, strict=True))

    def over(self, manifest: Manifest) -> Records:
        """The same records with more known about them; the rows are the same."""
        return Records(manifest, self.places, self.placer, self.rules, self.follows)

    def following(self, leader: Records) -> Records:
        """The same records, repeating the geometry of others, number by number."""
        return Records(self.manifest, self.places, self.placer, self.rules, leader)

    def only(self, indices: Places) -> Records:
        """Some of the records, with their own geometry."""
        return Records(self.manifest, self.places[indices], self.placer, self.rules)

    def _record(self, index: int, row: Row, epoch: int) -> Record:
        return Record(
            key=row.key,
            version=row.version,
            digest=row.digest,
            size=row.size,
            placement=self._placement(index, int(self.places[index]), row.key, row.size, epoch),
            captions=captions.alternatives(row.key, _texts(row), self.rules),
        )

    def _placement(self, index: int, place: int, key: str, size: Size, epoch: int) -> Placement:
        if self.follows is not None:
            return self.follows.at(index, epoch).placement
        if self.placer.is_shared:
            return self._shared(size)
        return self.placer.placement(self.manifest, place, key, size, epoch)

    def _shared(self, size: Size) -> Placement:
        found = self._placements.get(size)
        if found is None:
            found = self._placements[size] = self.placer.plain(size)
        return found

    @cached_property
    def _placements(self) -> dict[Size, Placement]:
        return {}

    @cached_property
    def _bucketed(self) -> tuple[NDArray[np.int64], tuple[Size, ...]]:
        if self.follows is not None:
            return self.follows._bucketed
        if self.placer.rules.draws_bucket:
            return _numbered([self.at(index).placement.bucket for index in range(len(self))])
        kinds, which = unique_sizes(self.manifest, self.places)
        of_kind, sizes = _numbered([self.placer.plain(size).bucket for size in kinds])
        return of_kind[which], sizes


def unique_sizes(manifest: Manifest, places: Places) -> tuple[list[Size], NDArray[np.int64]]:
    """The different sizes of some rows, and for each row which of them it has."""
    packed = manifest.numbers("width")[places] << 32 | manifest.numbers("height")[places]
    kinds, which = np.unique(packed, return_inverse=True)
    return [Size(int(one) >> 32, int(one) & 0xFFFFFFFF) for one in kinds], which.reshape(-1)


def _name_says(manifest: Manifest) -> NDArray[np.bool_]:
    """For each row whether there is a plain letter or digit in the name of its file, in front of the ending."""
    import pyarrow.compute as pc

    return np.asarray(pc.match_substring_regex(manifest.table.column("key"), r"[A-Za-z0-9][^/]*\.[^/.]*$").to_numpy())


def _texts_say(manifest: Manifest) -> NDArray[np.bool_]:
    """For each row whether there is a plain letter, digit or sign in any of its captions."""
    import pyarrow.compute as pc

    found = np.zeros(len(manifest), dtype=bool)
    column = manifest.table.column("captions").combine_chunks()
    says = pc.match_substring_regex(pc.list_flatten(column), "[!-~]").to_numpy(zero_copy_only=False)
    found[pc.list_parent_indices(column).to_numpy()[says]] = True
    return found


def _mirrored(record: Record) -> Record:
    return replace(record, placement=replace(record.placement, mirrored=True))


def _texts(row: Row) -> tuple[str, ...] | None:
    return None if row.captions is None else tuple(row.captions)


def _numbered(buckets: Sequence[Size]) -> tuple[NDArray[np.int64], tuple[Size, ...]]:
    sizes = tuple(sorted(set(buckets)))
    numbers = {size: number for number, size in enumerate(sizes)}
    return np.array([numbers[bucket] for bucket in buckets], dtype=np.int64), sizes


_AT_ONCE = 10_000

_SURE = {
    "filename": _name_says,
    **dict.fromkeys(("textfile", "csv", "parquet", "huggingface", "webshart"), _texts_say),
}
"""What tells by columns, and so a hundred times faster, that most images have a caption; by caption strategy."""
