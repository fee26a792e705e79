"""Which data sets are used when: epochs, their lengths, and where each begins, found by division and not by counting.

Data sets may start and end at an epoch or a step. Between two such moments all epochs are alike, so a run is a short
list of stretches. Only an epoch in which a data set starts or ends at a step has to be laid out by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

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

    def __init__(self, members: Sequence[Member], batches_per_step: int) -> None:
        self._members = tuple(members)
        self._per_step = batches_per_step
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
        """An epoch in which data sets start or end at a step: batch by batch from moment to moment."""
        owners: list[Numbers] = []
        used = dict.fromkeys(members, 0)
        offsets: dict[int, float] = {}
        clock, at = 0.0, batch
        moments = [moment for moment in self._moments() if moment > batch]
        for until in [*moments, None]:
            present = [one for one in members if self._first(one) <= at and not self._is_over(one, at)]
            for one in present:
                offsets.setdefault(one, clock)
            waiting = [(one, self._members[one].arrivals(epoch)[used[one] :] + offsets[one]) for one in present]
            times = np.concatenate([times for _, times in waiting]) if waiting else np.zeros(0)
            kinds = np.concatenate([np.full(len(times), one) for one, times in waiting]) if waiting else np.zeros(0)
            order = np.argsort(times, kind="stable")[: None if until is None else until - at]
            taken = kinds[order].astype(np.int64)
            owners.append(taken)
            for one in present:
                used[one] += int((taken == one).sum())
            if len(order):
                clock = float(times[order[-1]])
            at += len(order)
            if until is not None and at < until:  # everything that is there now is used up: the epoch ends
                break
        found = np.concatenate(owners)
        sizes = np.array([member.batch_size for member in self._members], dtype=np.int64)
        return Stretch(epoch, batch, sample, len(found), int(sizes[found].sum()), tuple(members), found)

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
        return max(self._members[one].window.first_step - 1, 0) * self._per_step

    def _last(self, one: int) -> int:
        """The first batch after the last one, or 0 for no end."""
        last = self._members[one].window.last_step
        return 0 if last is None else last * self._per_step

    def _is_over(self, one: int, batch: int) -> bool:
        return 0 < self._last(one) <= batch
