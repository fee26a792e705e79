"""Which records make up batch number n: a function of the seed and the data alone, so a run resumes exactly.

An epoch is planned as a whole: each data set is cut into batches that never mix buckets, and the batches of all data
sets are mixed. How long each epoch is says the timeline, so any batch is found by division.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from simpletuner.data.captions import Use
from simpletuner.data.dataset import Dataset
from simpletuner.data.pace import Pace
from simpletuner.data.timeline import Floats, Member, Numbers, Stretch, Timeline
from simpletuner.errors import DataError
from simpletuner.seeds import derive


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
    step: int = 0
    """The optimizer step that takes the batch."""


class Order:
    """The order in which data sets are used, from the first batch to any later one."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        *,
        seed: int,
        sampling: str = "auto-weighting",
        pace: Pace | None = None,
        total_steps: int = 0,
    ) -> None:
        """The order for some data sets.

        Args:
            datasets: The data sets of the run.
            seed: Where the order comes from.
            sampling: auto-weighting or uniform.
            pace: How many batches a step takes; one unless given.
            total_steps: The length of the run, where it is known.
        """
        self._datasets = tuple(datasets)
        self._seed = seed
        self.pace = pace or Pace()
        self._total_steps = total_steps
        self._buckets = [_buckets(dataset) for dataset in self._datasets]
        self._uses = [_uses(dataset, seed) for dataset in self._datasets]
        self._sizes = np.array([dataset.batch_size for dataset in self._datasets], dtype=np.int64)
        self._refuse_parts()
        self._counts = np.array([self._count(number) for number in range(len(self._datasets))], dtype=np.int64)
        self._weights = _weights(self._datasets, self._counts, sampling)
        self._timeline = Timeline([self._member(number) for number in range(len(self._datasets))], self.pace)
        self._epoch = lru_cache(maxsize=2)(self._planned)
        self.batches_per_epoch = self.batches_in(1)
        """In the first epoch; later ones differ where data sets start or end."""

    @property
    def end(self) -> int | None:
        """The first batch that no data set is left for; nothing when there always is one."""
        return None if self._timeline.end is None else self._timeline.end * self.pace.parts

    def with_length(self, total_steps: int) -> Order:
        """The same order, for a run of a known length."""
        order = copy(self)
        order._total_steps = total_steps
        return order

    def batches_in(self, epochs: float) -> int:
        """How many batches the first so many epochs have."""
        return self._timeline.batches_in(epochs) * self.pace.parts

    def epoch_of(self, batch: int) -> int:
        """The epoch of a batch, counted from 0."""
        return self._timeline.place(batch // self.pace.parts).epoch

    def check_length(self, steps: int) -> None:
        """Raise a DataError when no data set is left before a run of so many steps is over."""
        if self.end is not None and self.pace.batch_of(steps) > self.end:
            last = self.pace.step_of(self.end)
            raise DataError(
                f"no data set is left after step {last}: all of them have ended, or start later. "
                f"Change their end_step, end_epoch, start_step or start_epoch, or make the run shorter."
            )

    def batch(self, number: int) -> Draws:
        """Batch `number`, counted from 0 over all epochs.

        Raises:
            DataError: No data set is left for it, because all of them have ended.
        """
        step = self.pace.step_of(number)
        self.check_length(step + 1)
        whole, part = divmod(number, self.pace.parts)
        place = self._timeline.place(whole)
        plan = self._epoch(place.epoch, place.stretch)
        dataset = int(plan.datasets[place.number])
        size = int(self._sizes[dataset]) // self.pace.parts
        records = plan.records[dataset][plan.places[place.number]][part * size : (part + 1) * size]
        first = place.first_sample + int(plan.samples[place.number]) + part * size
        draws = (
            self._draw(dataset, int(record), Use(first + i, place.epoch + 1, step, self._total_steps))
            for i, record in enumerate(records)
        )
        return Draws(dataset, place.epoch, tuple(draws), step)

    def _refuse_parts(self) -> None:
        """Batches that cannot be used in as many parts as the run is resumed with."""
        for dataset in self._datasets:
            if dataset.batch_size % self.pace.parts:
                raise DataError(
                    f"data set '{dataset.id}': its batches of {dataset.batch_size} cannot be used in {self.pace.parts} "
                    f"parts, which train_batch_size asks for since the checkpoint. Set that back to what it was."
                )

    def _draw(self, dataset: int, record: int, use: Use) -> Draw:
        return Draw(use.sample, record, self._datasets[dataset].caption(record, use, self._seed))

    def _member(self, number: int) -> Member:
        dataset = self._datasets[number]
        times = partial(self._times, number)
        return Member(int(self._counts[number]), dataset.batch_size, dataset.window, times, self._limit(number))

    def _planned(self, epoch: int, stretch: Stretch) -> _Epoch:
        datasets = stretch.owners if stretch.owners is not None else self._mixed(epoch, stretch.members)
        sizes = self._sizes[datasets]
        return _Epoch(
            datasets=datasets,
            places=_nth_of_its_kind(datasets, len(self._datasets)),
            samples=np.cumsum(sizes) - sizes,
            records={number: self._cut(number, epoch) for number in stretch.members},
        )

    def _mixed(self, epoch: int, members: Sequence[int]) -> Numbers:
        """Which data set each batch of an epoch belongs to."""
        times = np.concatenate([self._times(number, epoch) for number in members])
        owners = np.repeat(np.array(members), self._counts[list(members)])
        order: Numbers = owners[np.argsort(times, kind="stable")]
        limits = {number: limit for number in members if (limit := self._limit(number)) is not None}
        is_late = any((order[limit:] == number).any() for number, limit in limits.items())
        return self._early(order, epoch, limits) if is_late else order

    def _early(self, order: Numbers, epoch: int, limits: Mapping[int, int]) -> Numbers:
        """The same batches with some data sets among the first ones of the epoch, at places drawn at random."""
        found = np.full_like(order, -1)
        for number, limit in sorted(limits.items(), key=itemgetter(1, 0)):
            free = np.flatnonzero(found < 0)
            soon = int(np.searchsorted(free, limit))
            chance = np.argsort(self._raw(number, epoch, "early", soon), kind="stable")
            places = np.concatenate([free[:soon][chance], free[soon:]])  # the later ones where there are too many
            found[places[: int(self._counts[number])]] = number
        found[found < 0] = order[~np.isin(order, list(limits))]
        return found

    def _limit(self, number: int) -> int | None:
        """How many batches at the beginning of an epoch may be of a data set.

        They stay as many when a run goes on with other steps: otherwise earlier epochs would have had another order.
        """
        steps = self._datasets[number].options.disable_after_epoch_step
        return None if steps is None else -(-steps * self.pace.stretches[0][1] // self.pace.parts)

    def _times(self, number: int, epoch: int) -> Floats:
        """When each batch of a data set would arrive, if batches came at random with the rate of its weight.

        Sorting the arrivals of all data sets gives the same order as drawing a data set by weight for each batch,
        with used-up data sets dropping out: exponential waiting times have no memory.
        """
        raw = self._raw(number, epoch, "mix", int(self._counts[number]))
        waits = -np.log((np.right_shift(raw, np.uint64(11)) + 0.5) * 2.0**-53)
        arrivals: Floats = np.cumsum(waits) / self._weights[number]
        return arrivals

    def _count(self, number: int) -> int:
        """How many batches of a data set an epoch has."""
        uses, size, limit = self._uses[number], int(self._sizes[number]), self._limit(number)
        count = sum(-(-int(uses[records].sum()) // size) for records in self._buckets[number])
        return count if limit is None else min(count, limit)

    def _cut(self, number: int, epoch: int) -> Numbers:
        """The batches of a data set in one epoch in order, with shape (batches, batch size)."""
        rows = [
            self._shuffled(records, number=number, epoch=epoch, bucket=bucket)
            for bucket, records in enumerate(self._buckets[number])
        ]
        batches = np.concatenate(rows)
        return batches[np.argsort(self._raw(number, epoch, "batches", len(batches)), kind="stable")]

    def _shuffled(self, records: Numbers, *, number: int, epoch: int, bucket: int) -> Numbers:
        """Batches of one bucket: pass after pass in a new order; the last batch is filled up from more passes."""
        uses, size = self._uses[number][records], int(self._sizes[number])
        wanted = int(uses.sum())
        full = -(-wanted // size) * size
        used = records[uses > 0]
        more = -(-(full - wanted) // max(len(used), 1))
        passes = np.concatenate([nth_use(uses), np.repeat(int(uses.max()) + np.arange(more), len(used))])
        repeated = np.concatenate([np.repeat(records, uses), np.tile(used, more)])
        keys = self._raw(number, epoch, f"bucket {bucket}", len(repeated))
        return repeated[np.lexsort((keys, passes))][:full].reshape(-1, size)

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
    records: dict[int, Numbers]


def _buckets(dataset: Dataset) -> list[Numbers]:
    """The places of the records of each bucket, buckets in the order of their sizes."""
    numbers = dataset.records.bucket_of
    order = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    return [part for part in np.split(order, cuts) if len(part)]


def _uses(dataset: Dataset, seed: int) -> Numbers:
    """How often each record is used in an epoch."""
    count, times = len(dataset.records), dataset.repeats + 1
    if count * times > _LARGEST_EPOCH:
        raise DataError(
            f"data set '{dataset.id}': an epoch would have {count * times:,} uses of its images, more than the "
            f"{_LARGEST_EPOCH:,} that are served. Lower repeats."
        )
    if dataset.uses is None:
        return np.full(count, times, dtype=np.int64)
    ranked = np.argsort(np.random.PCG64(derive(seed, "uses", dataset.id)).random_raw(count), kind="stable")
    uses = np.zeros(count, dtype=np.int64)
    if dataset.uses < count * times:
        whole, rest = divmod(dataset.uses, times)
        uses[ranked[:whole]] = times
        uses[ranked[whole : whole + 1]] = rest
        return uses
    more, rest = divmod(dataset.uses - count * times, count)
    uses += times + more
    uses[ranked[:rest]] += 1
    return uses


def nth_use(uses: Numbers) -> Numbers:
    """For each use of each record, which use of it that is: [2, 3] gives [0, 1, 0, 1, 2]."""
    ends = np.cumsum(uses)
    return np.arange(int(ends[-1])) - np.repeat(ends - uses, uses)


def _weights(datasets: Sequence[Dataset], counts: Numbers, sampling: str) -> Floats:
    probabilities = np.array([dataset.probability for dataset in datasets], dtype=np.float64)
    return probabilities if sampling == "uniform" else probabilities * np.maximum(counts, 1)


def _nth_of_its_kind(kinds: Numbers, count: int) -> Numbers:
    places = np.empty_like(kinds)
    for kind in range(count):
        mask = kinds == kind
        places[mask] = np.arange(int(mask.sum()))
    return places


_LARGEST_EPOCH = 2**28
"""More would not fit into the memory of the machines that people train on."""
