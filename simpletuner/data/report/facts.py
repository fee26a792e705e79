"""The facts of one data set: how many images of which sizes go into which buckets, and what happens to them there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simpletuner.data.dataset import Dataset
from simpletuner.data.items import Placement, Size
from simpletuner.data.records import Records, unique_sizes
from simpletuner.data.sampler import Order
from simpletuner.data.timeline import Window

Floats = NDArray[np.float64]

MUCH = 0.25
"""An image that loses more than this share of its picture is cropped much."""

BLURRED = 1.25
"""An image that is enlarged more than this looks soft, and the model learns to draw softly."""


@dataclass(frozen=True)
class Bucket:
    """The images that are trained on at one size."""

    size: Size
    images: int
    batches: int
    added: int
    """How many more uses of its images fill up its last batch."""
    lost: float
    """The mean share of the picture that is cropped away."""
    cropped_much: int
    enlarged: int
    examples: tuple[int, ...]
    """The places of a few of its records, the one that loses most first."""


@dataclass(frozen=True)
class Left:
    """Files that are left out for one reason."""

    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]
    """Names of a few of them, each with the details."""


@dataclass(frozen=True)
class Bin:
    """The images within one range of sizes."""

    low: int
    high: int | None
    """Nothing for the last range, which has no end."""
    count: int


@dataclass(frozen=True)
class Facts:
    """What there is to know about the images of one data set."""

    id: str
    kind: str
    """What it is for: images, regularisation images, evaluation."""
    place: str
    images: int
    repeats: int
    batch_size: int
    batches: int
    """In an epoch that uses the data set from beginning to end."""
    buckets: tuple[Bucket, ...]
    left: tuple[Left, ...]
    sizes: tuple[Bin, ...]
    """By the edge of a square of the same area."""
    trained_at: int
    """The edge of a square with the mean area of the buckets."""
    most_enlarged: float

    @property
    def left_out(self) -> int:
        """How many files are left out."""
        return sum(group.count for group in self.left)

    @property
    def cropped_much(self) -> int:
        """How many images lose a large part of their picture."""
        return sum(bucket.cropped_much for bucket in self.buckets)

    @property
    def enlarged(self) -> int:
        """How many images are enlarged so much that it shows."""
        return sum(bucket.enlarged for bucket in self.buckets)

    @property
    def lost(self) -> float:
        """The mean share of the pictures that is cropped away."""
        return sum(bucket.lost * bucket.images for bucket in self.buckets) / max(1, self.images)

    @property
    def small_buckets(self) -> tuple[Bucket, ...]:
        """Buckets to train on that do not fill a single batch in an epoch."""
        if self.kind == _EVALUATION:
            return ()
        return tuple(one for one in self.buckets if one.images * (self.repeats + 1) < self.batch_size)


def facts(dataset: Dataset) -> Facts:
    """Everything that can be told without opening an image."""
    columns = _columns(dataset)
    return Facts(
        id=dataset.id,
        kind=_kind(dataset),
        place=dataset.source.name(""),
        images=len(dataset.records),
        repeats=dataset.repeats,
        batch_size=dataset.batch_size,
        batches=Order([replace(dataset, window=Window())], seed=0).batches_per_epoch,
        buckets=_buckets(dataset, columns),
        left=_left(dataset),
        sizes=binned(np.sqrt(columns.originals)),
        trained_at=round(float(np.sqrt(columns.buckets.mean()))),
        most_enlarged=float(columns.scales.max()),
    )


@dataclass(frozen=True)
class _Columns:
    """One number for each record: areas in pixels, and how much each image is scaled."""

    originals: Floats
    buckets: Floats
    lost: Floats
    scales: Floats


def _columns(dataset: Dataset) -> _Columns:
    wide, high, resized, resized_high, kept, kept_high = _edges(dataset.records).T
    buckets = kept * kept_high
    lost = np.maximum(0.0, 1 - buckets / (resized * resized_high))
    return _Columns(wide * high, buckets, lost, np.maximum(resized / wide, resized_high / high))


def _edges(records: Records) -> Floats:
    """Width and height of each image, of what it is resized to, and of its bucket."""
    if records.follows is None and records.placer.is_shared:  # then images of one size need to be placed only once
        sizes, which = unique_sizes(records.manifest, records.places)
        return _rows((size, records.placer.plain(size)) for size in sizes)[which]
    return _rows((record.size, record.placement) for record in records)


def _rows(placed: Iterable[tuple[Size, Placement]]) -> Floats:
    numbers = [(*size, *placement.resize, *placement.bucket) for size, placement in placed]
    return np.array(numbers, dtype=np.float64).reshape(-1, 6)


def _kind(dataset: Dataset) -> str:
    if dataset.options.is_regularisation_data:
        return "regularisation images"
    return {"image": "images", "eval": _EVALUATION, "conditioning": "conditioning"}[dataset.options.dataset_type]


def _buckets(dataset: Dataset, columns: _Columns) -> tuple[Bucket, ...]:
    records = dataset.records
    order = np.argsort(records.bucket_of, kind="stable")
    ends = np.cumsum(np.bincount(records.bucket_of, minlength=len(records.bucket_sizes)))
    members = np.split(order, ends[:-1])
    found = (_bucket(dataset, size, some, columns) for size, some in zip(records.bucket_sizes, members, strict=True))
    return tuple(sorted(found, key=lambda bucket: (-bucket.images, bucket.size)))


def _bucket(dataset: Dataset, size: Size, members: NDArray[np.int64], columns: _Columns) -> Bucket:
    uses = len(members) * (dataset.repeats + 1)
    batches = -(-uses // dataset.batch_size)
    lost = columns.lost[members]
    return Bucket(
        size=size,
        images=len(members),
        batches=batches,
        added=batches * dataset.batch_size - uses,
        lost=float(lost.mean()),
        cropped_much=int((lost > MUCH).sum()),
        enlarged=int((columns.scales[members] > BLURRED).sum()),
        examples=_examples(members, lost),
    )


def _examples(members: NDArray[np.int64], lost: Floats) -> tuple[int, ...]:
    """The image that loses most, and others from everywhere in the bucket."""
    spread = np.linspace(0, len(members) - 1, min(len(members), _EXAMPLES)).astype(int)
    return tuple(dict.fromkeys(int(members[one]) for one in [int(lost.argmax()), *spread]))[:_EXAMPLES]


def _left(dataset: Dataset) -> tuple[Left, ...]:
    counts = Counter(one.reason for one in dataset.skipped)
    examples: dict[str, list[tuple[str, str]]] = {reason: [] for reason in counts}
    for one in dataset.skipped:
        if len(examples[one.reason]) < _NAMED:
            examples[one.reason].append((dataset.source.name(one.key), one.detail))
    return tuple(Left(reason, count, tuple(examples[reason])) for reason, count in counts.most_common())


def binned(values: Sequence[float] | Floats) -> tuple[Bin, ...]:
    """At most some twenty ranges of round numbers; the few largest values share the last one."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return ()
    usual = max(float(np.percentile(numbers, 98)) * 1.1, float(np.median(numbers)) * 1.5)
    top = min(float(numbers.max()), usual)
    step = next((step for step in _STEPS if top / step <= _MOST_BINS), round(top / _MOST_BINS))
    first, last = int(numbers.min() // step), int(top // step)
    counts = np.bincount(np.clip(numbers // step, first, last).astype(int) - first, minlength=last - first + 1)
    is_open = float(numbers.max()) >= (last + 1) * step
    return tuple(
        Bin((first + place) * step, None if is_open and first + place == last else (first + place + 1) * step, count)
        for place, count in enumerate(counts.tolist())
    )


_EVALUATION = "evaluation"
_EXAMPLES = 6
_NAMED = 30
_MOST_BINS = 20
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
