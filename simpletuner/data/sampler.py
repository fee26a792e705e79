"""Which records make up batch number n: a function of the seed and the data alone, so a run resumes exactly.

An epoch is planned as a whole: each data set is cut into batches that never mix buckets, and the batches of all data
sets are mixed. Every epoch has the same number of batches and of samples, so any batch is found by division.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simpletuner.data.dataset import Dataset
from simpletuner.data.items import Record
from simpletuner.seeds import derive

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Draw:
    """One use of one record."""

    sample: int
    """Counts all samples since the beginning; the same on any number of processes."""
    record: int
    """The place in the records of the data set."""
    caption: str
    """The chosen caption, or nothing when it is dropped."""


@dataclass(frozen=True, slots=True)
class Draws:
    """One batch: records of one bucket of one data set."""

    dataset: int
    epoch: int
    draws: tuple[Draw, ...]


class Order:
    """The order in which data sets are used, from the first batch to any later one."""

    def __init__(
        self, datasets: Sequence[Dataset], *, seed: int, sampling: str = "auto-weighting", caption_dropout: float = 0.0
    ) -> None:
        """`sampling` is auto-weighting or uniform; `caption_dropout` is the share of samples without a caption."""
        self._datasets = tuple(datasets)
        self._seed = seed
        self._caption_dropout = caption_dropout
        self._buckets = [_buckets(dataset.records) for dataset in self._datasets]
        self._sizes = np.array([dataset.batch_size for dataset in self._datasets], dtype=np.int64)
        counts = [_batches(dataset, buckets) for dataset, buckets in zip(self._datasets, self._buckets, strict=True)]
        self._counts = np.array(counts, dtype=np.int64)
        self._weights = _weights(self._datasets, self._counts, sampling)
        self.batches_per_epoch = int(self._counts.sum())
        self.samples_per_epoch = int((self._counts * self._sizes).sum())
        self._epoch = lru_cache(maxsize=2)(self._planned)

    def batch(self, number: int) -> Draws:
        """Batch `number`, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.batches_per_epoch)
        plan = self._epoch(epoch)
        dataset = int(plan.datasets[place])
        records = plan.records[dataset][plan.places[place]]
        first = epoch * self.samples_per_epoch + int(plan.samples[place])
        return Draws(dataset, epoch, tuple(self._draw(dataset, first + i, int(r)) for i, r in enumerate(records)))

    def _draw(self, dataset: int, sample: int, record: int) -> Draw:
        captions = self._datasets[dataset].records[record].captions
        if self._caption_dropout > 0 and _share(derive(self._seed, "caption dropout", sample)) < self._caption_dropout:
            return Draw(sample, record, "")
        if len(captions) == 1:
            return Draw(sample, record, captions[0])
        return Draw(sample, record, captions[derive(self._seed, "caption", sample) % len(captions)])

    def _planned(self, epoch: int) -> _Epoch:
        times = [self._times(number, epoch) for number in range(len(self._datasets))]
        owners = np.repeat(np.arange(len(self._datasets)), self._counts)
        datasets = owners[np.argsort(np.concatenate(times), kind="stable")]
        sizes = self._sizes[datasets]
        return _Epoch(
            datasets=datasets,
            places=_nth_of_its_kind(datasets, len(self._datasets)),
            samples=np.cumsum(sizes) - sizes,
            records=[self._cut(number, epoch) for number in range(len(self._datasets))],
        )

    def _times(self, number: int, epoch: int) -> Floats:
        """When each batch of a data set would arrive, if batches came at random with the rate of its weight.

        Sorting the arrivals of all data sets gives the same order as drawing a data set by weight for each batch,
        with used-up data sets dropping out: exponential waiting times have no memory.
        """
        raw = self._raw(number, epoch, "mix", int(self._counts[number]))
        waits = -np.log((np.right_shift(raw, np.uint64(11)) + 0.5) * 2.0**-53)
        arrivals: Floats = np.cumsum(waits) / self._weights[number]
        return arrivals

    def _cut(self, number: int, epoch: int) -> Numbers:
        """The batches of a data set in one epoch in order, with shape (batches, batch size)."""
        passes, size = self._datasets[number].repeats + 1, int(self._sizes[number])
        rows = [
            self._shuffled(records, number=number, epoch=epoch, bucket=bucket, wanted=len(records) * passes, size=size)
            for bucket, records in enumerate(self._buckets[number])
        ]
        batches = np.concatenate(rows)
        return batches[np.argsort(self._raw(number, epoch, "batches", len(batches)), kind="stable")]

    def _shuffled(self, records: Numbers, *, number: int, epoch: int, bucket: int, wanted: int, size: int) -> Numbers:
        """Batches of one bucket: pass after pass in a new order; the last batch is filled up from one more pass."""
        full = -(-wanted // size) * size
        passes = -(-full // len(records))
        keys = self._raw(number, epoch, f"bucket {bucket}", passes * len(records)).reshape(passes, len(records))
        return records[np.argsort(keys, axis=1, kind="stable")].reshape(-1)[:full].reshape(-1, size)

    def _raw(self, number: int, epoch: int, purpose: str, count: int) -> NDArray[np.uint64]:
        """Random bits; numpy promises that the raw output of a generator never changes between versions."""
        seed = derive(self._seed, "order", self._datasets[number].id, epoch, purpose)
        return np.random.PCG64(seed).random_raw(count)


@dataclass(frozen=True)
class _Epoch:
    """The plan of one epoch; the first three have one entry for each batch."""

    datasets: Numbers
    places: Numbers
    """Which batch of its data set it is."""
    samples: Numbers
    """How many samples of the epoch come before it."""
    records: list[Numbers]


def _buckets(records: Sequence[Record]) -> list[Numbers]:
    """The places of the records of each bucket, buckets in the order of their sizes."""
    found: dict[tuple[int, int], list[int]] = {}
    for place, record in enumerate(records):
        found.setdefault(record.placement.bucket, []).append(place)
    return [np.array(found[bucket], dtype=np.int64) for bucket in sorted(found)]


def _batches(dataset: Dataset, buckets: Sequence[Numbers]) -> int:
    return sum(-(-len(bucket) * (dataset.repeats + 1) // dataset.batch_size) for bucket in buckets)


def _weights(datasets: Sequence[Dataset], counts: Numbers, sampling: str) -> Floats:
    probabilities = np.array([dataset.probability for dataset in datasets], dtype=np.float64)
    return probabilities if sampling == "uniform" else probabilities * counts


def _nth_of_its_kind(kinds: Numbers, count: int) -> Numbers:
    places = np.empty_like(kinds)
    for kind in range(count):
        mask = kinds == kind
        places[mask] = np.arange(int(mask.sum()))
    return places


def _share(bits: int) -> float:
    return bits / 2**63
