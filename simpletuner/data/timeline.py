"""Which data sets are used when: epochs, their lengths, and where each begins, found by division and not by counting.

Data sets may start and end at an epoch or a step. Between two such moments all epochs are alike, so a run is a short
list of stretches. Only an epoch in which a data set starts or ends at a step has to be laid out by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from simpletuner.data.pace import Pace

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """When a data set is used. Epochs and steps count from 1; nothing as an end means to the last."""

    first_epoch: int = 1
    last_epoch: int | None = None
    first_step: int = 1
    last_step: int | None = None


@dataclass(frozen=True)
class Member:
    """What the timeline has to know of a data set."""

    batches: int
    """In an epoch that it takes part in from beginning to end."""
    batch_size: int
    window: Window
    arrivals: Callable[[int], Floats]
    """For an epoch, counted from 0, the times at which its batches would arrive, ascending."""
    limit: int | None = None
    """How many batches at the beginning of an epoch may be of the data set, where not all may."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """Epochs that are alike."""

    first_epoch: int
    """Counted from 0."""
    first_batch: int
    first_sample: int
    batches: int
    """In each epoch."""
    samples: int
    """In each epoch."""
    members: tuple[int, ...]
    """The data sets that take part."""
    owners: Numbers | None = None
    """Which data set each batch belongs to, for an epoch that is laid out by itself."""


@dataclass(frozen=True)
class Place:
    """Where a batch lies."""

    stretch: Stretch
    epoch: int
    number: int
    """In its epoch."""
    first_sample: int
    """Of the epoch."""


class Timeline:
    """All epochs of a run, to whatever length."""

    def __init__(self, members: Sequence[Member], pace: Pace) -> None:
        self._members = tuple(members)
        self._pace = pace
        self._stretches: list[Stretch] = []
        self.end: int | None = None
        """The first batch that no data set is left for; nothing when there always is one."""
        self._lay_out()
        self._starts = [stretch.first_batch for stretch in self._stretches]

    def place(self, batch: int) -> Place:
        """Where a batch lies; it must come before `end`."""
        stretch = self._stretches[bisect_right(self._starts, batch) - 1]
        epochs, number = divmod(batch - stretch.first_batch, stretch.batches)
        return Place(stretch, stretch.first_epoch + epochs, number, stretch.first_sample + epochs * stretch.samples)

    def batches_in(self, epochs: float) -> int:
        """How many batches the first so many epochs have; part of an epoch counts by its share."""
        whole = int(epochs)
        before = self._before(whole)
        share = epochs - whole
        return before + ceil(share * (self._before(whole + 1) - before)) if share else before

    def _before(self, epoch: int) -> int:
        """How many batches come before an epoch."""
        reached = [stretch for stretch in self._stretches if stretch.first_epoch <= epoch]
        if not reached:  # there is nothing to train on at all
            return 0
        last = reached[-1]
        batches = last.first_batch + (epoch - last.first_epoch) * last.batches
        return batches if self.end is None else min(batches, self.end)

    def _lay_out(self) -> None:
        epoch = batch = sample = 0
        moments = self._moments()
        while True:
            members = self._taking_part(epoch)
            coming = [moment for moment in moments if moment > batch]
            active = tuple(one for one in members if self._first(one) <= batch and not self._is_over(one, batch))
            length = sum(self._members[one].batches for one in active)
            if not active and not coming:
                self.end = batch
                break
            if not active or (coming and coming[0] < batch + length):
                stretch = self._by_itself(epoch, batch, sample, members)
                epochs = 1
            else:
                samples = sum(self._members[one].batches * self._members[one].batch_size for one in active)
                stretch = Stretch(epoch, batch, sample, length, samples, active)
                epochs = self._alike(stretch, coming)
            if not stretch.batches:
                self.end = batch
                break
            self._stretches.append(stretch)
            if not epochs:
                break
            epoch += epochs
            batch += epochs * stretch.batches
            sample += epochs * stretch.samples

    def _alike(self, stretch: Stretch, coming: Sequence[int]) -> int:
        """For how many epochs nothing changes; 0 when nothing ever changes again."""
        limits = [(coming[0] - stretch.first_batch) // stretch.batches] if coming else []
        borders = {
            border
            for member in self._members
            for border in (member.window.first_epoch - 1, member.window.last_epoch)
            if border is not None and border > stretch.first_epoch
        }
        limits += [min(borders) - stretch.first_epoch] if borders else []
        return min(limits, default=0)

    def _by_itself(self, epoch: int, batch: int, sample: int, members: Sequence[int]) -> Stretch:
        """An epoch in which data sets start or end at a step: batch by batch from moment to moment.

        It ends as soon as every data set that was used in it is used up or over: what starts at that very moment
        starts with an epoch of its own.
        """
        laid = _Epoch({one: self._members[one].arrivals(epoch) for one in members})
        at = batch
        for until in [*self._moments_in_epoch(batch, members), None]:
            present = [one for one in members if self._may_be_used(one, at, first=batch)]
            at += laid.extend(present, None if until is None else until - at)
            if at != until or laid.is_used_up([one for one in present if self._may_be_used(one, at, first=batch)]):
                break
        owners = laid.owners
        sizes = np.array([member.batch_size for member in self._members], dtype=np.int64)
        return Stretch(epoch, batch, sample, len(owners), int(sizes[owners].sum()), tuple(members), owners)

    def _moments_in_epoch(self, batch: int, members: Sequence[int]) -> list[int]:
        """The batches at which the data sets to choose from change, for an epoch that begins with `batch`."""
        limits = [batch + limit for one in members if (limit := self._members[one].limit) is not None]
        return sorted({moment for moment in (*self._moments(), *limits) if moment > batch})

    def _may_be_used(self, one: int, batch: int, *, first: int) -> bool:
        """Whether a batch may be of a data set, in an epoch that begins with the batch `first`."""
        limit = self._members[one].limit
        is_late = limit is not None and batch - first >= limit
        return self._first(one) <= batch and not self._is_over(one, batch) and not is_late

    def _taking_part(self, epoch: int) -> list[int]:
        return [
            number
            for number, member in enumerate(self._members)
            if member.window.first_epoch <= epoch + 1
            and (member.window.last_epoch is None or epoch + 1 <= member.window.last_epoch)
        ]

    def _moments(self) -> list[int]:
        """The batches at which some data set starts or ends because of a step, ascending."""
        starts = {self._first(one) for one in range(len(self._members))}
        ends = {self._last(one) for one in range(len(self._members))}
        return sorted({moment for moment in starts | ends if moment})

    def _first(self, one: int) -> int:
        return self._pace.whole_before(max(self._members[one].window.first_step - 1, 0))

    def _last(self, one: int) -> int:
        """The first batch after the last one, or 0 for no end."""
        last = self._members[one].window.last_step
        return 0 if last is None else self._pace.whole_before(last)

    def _is_over(self, one: int, batch: int) -> bool:
        return 0 < self._last(one) <= batch


class _Epoch:
    """An epoch that is being laid out: who owns its batches so far, and who has how many left."""

    def __init__(self, arrivals: Mapping[int, Floats]) -> None:
        self._arrivals = arrivals
        self._used = dict.fromkeys(arrivals, 0)
        self._joined: dict[int, float] = {}
        self._clock = 0.0
        self._owners = [np.zeros(0, dtype=np.int64)]

    @property
    def owners(self) -> Numbers:
        """The data set of each batch."""
        return np.concatenate(self._owners)

    def extend(self, present: Sequence[int], most: int | None) -> int:
        """Lay out at most so many batches of the data sets that are there, and say how many those are."""
        for one in present:
            self._joined.setdefault(one, self._clock)
        waiting = {one: self._arrivals[one][self._used[one] :] + self._joined[one] for one in present}
        times = np.concatenate([np.zeros(0), *waiting.values()])
        counts = np.array([len(left) for left in waiting.values()], dtype=np.int64)
        kinds = np.repeat(np.array(present, dtype=np.int64), counts)
        order = np.argsort(times, kind="stable")[:most]
        for one in present:
            self._used[one] += int((kinds[order] == one).sum())
        if len(order):
            self._clock = float(times[order[-1]])
        self._owners.append(kinds[order])
        return len(order)

    def is_used_up(self, members: Sequence[int]) -> bool:
        """Whether something has been laid out, and none of these data sets has anything left."""
        left = (len(self._arrivals[one]) - self._used[one] for one in members)
        return sum(map(len, self._owners)) > 0 and not any(left)
