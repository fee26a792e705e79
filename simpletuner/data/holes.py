"""Images with holes, for models that fill in what is missing: what a mask covers is grey, the rest is as it was."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from simpletuner.data import masks
from simpletuner.data.dataset import Condition, Dataset
from simpletuner.data.items import Record

KIND = "holes"
"""The kind of the condition that takes the place of a mask; data files do not name it."""

GREY = 127.5
"""In the middle between black and white, which is 0 for the image encoder."""

COVERED = 0.5
"""What is at least so bright in a mask is a hole, as in the pipelines of diffusers."""


@dataclass(frozen=True, kw_only=True)
class Holed(Dataset):
    """The images of a data set with holes, number by number."""

    whole: Dataset
    """Says which mask an image has; it never loses an image."""
    covers: Dataset
    """The masks, number by number."""

    def pixels(self, record: Record) -> NDArray[np.float32]:
        """The image, grey where its mask is white."""
        found = super().pixels(record)
        found[self.holes(record)] = GREY
        return found

    def holes(self, record: Record) -> NDArray[np.bool_]:
        """What is missing of an image as it is used, with shape (height, width)."""
        key = self.covers.records.key(self._places[record.key])
        found = masks.read(
            self.covers.source.read(key),
            self.covers.source.name(key),
            kind="mask",
            image=self.source.name(record.key),
            size=record.size,
            placement=record.placement,
        )
        is_hole: NDArray[np.bool_] = found >= COVERED
        return is_hole

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.whole.records.all_keys())}


def with_holes(dataset: Dataset) -> Dataset:
    """The data set, its mask turned into a second picture of each image: itself without what the mask covers."""
    return replace(dataset, conditions=tuple(_turned(one, dataset) for one in dataset.conditions))


def _turned(condition: Condition, dataset: Dataset) -> Condition:
    return Condition(KIND, _holed(dataset, condition.dataset)) if condition.kind == "mask" else condition


def _holed(dataset: Dataset, covers: Dataset) -> Holed:
    """Told apart from other pictures by the image and the mask, so that a cache knows when either changes."""
    import pyarrow as pa

    records = dataset.records
    digests = records.manifest.table.column("digest").to_pylist()
    for place, mask in zip(records.places.tolist(), covers.records.digests(), strict=True):
        digests[place] = xxhash.xxh3_128_hexdigest(f"{digests[place]}/{mask}/{KIND}-1".encode())
    table = records.manifest.table
    column = table.schema.get_field_index("digest")
    table = table.set_column(column, table.schema.field(column), pa.array(digests, table.schema.field(column).type))
    own = records.over(replace(records.manifest, table=table)).following(records)
    given = {one.name: dataset.__dict__[one.name] for one in fields(Dataset)}
    given |= {"id": f"{dataset.id} with holes", "records": own, "conditions": (), "skipped": ()}
    return Holed(**given, whole=dataset, covers=covers)
