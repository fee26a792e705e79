"""How many batches the steps of a run take, so that a run resumed on more or fewer processes goes on in the same order.

Batches are counted over the whole run. A step takes the next ones, as many as all processes together work on; only
that number changes when a run is resumed on other machines, never what a batch is or what comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True)
class Pace:
    """How many batches each step of a run takes. Steps and batches are counted from 0."""

    stretches: tuple[tuple[int, int], ...] = ((0, 1),)
    """For each stretch of alike steps its first step, and how many batches a step of it takes."""
    parts: int = 1
    """In how many parts each batch of the order is used; batches are counted in parts.

    A run that is resumed with smaller batches goes on in the order that it began with.
    """

    @staticmethod
    def steady(batches: int) -> Pace:
        """As many batches in every step."""
        return Pace(((0, batches),))

    @staticmethod
    def read(written: Sequence[Sequence[int]], parts: int = 1) -> Pace:
        """What was kept of `stretches` as lists."""
        return Pace(tuple((int(first), int(batches)) for first, batches in written), parts)

    @property
    def now(self) -> int:
        """How many batches a step takes at last."""
        return self.stretches[-1][1]

    def changed(self, step: int, batches: int) -> Pace:
        """The same before a step, and as many batches in every step from there on."""
        before = [stretch for stretch in self.stretches if stretch[0] < step]
        if before and before[-1][1] == batches:
            return replace(self, stretches=tuple(before))
        return replace(self, stretches=(*before, (step, batches)))

    def parted(self, parts: int) -> Pace | None:
        """The same with batches in other parts; nothing when a step took less than one of these."""
        if any(batches * parts % self.parts for _, batches in self.stretches):
            return None
        return Pace(tuple((first, batches * parts // self.parts) for first, batches in self.stretches), parts)

    def whole_before(self, step: int) -> int:
        """How many whole batches of the order are begun before a step."""
        return -(-self.batch_of(step) // self.parts)

    def batch_of(self, step: int) -> int:
        """How many batches come before a step."""
        ends = [*(first for first, _ in self.stretches[1:]), max(step, self.stretches[-1][0])]
        whole = zip(self.stretches, ends, strict=True)
        return sum((min(end, step) - first) * batches for (first, batches), end in whole if first < step)

    def step_of(self, batch: int) -> int:
        """The step that takes a batch."""
        for (_, each), (first, _) in pairwise(self.stretches):
            if batch < self.batch_of(first):
                return first - -(-(self.batch_of(first) - batch) // each)
        first, each = self.stretches[-1]
        return first + (batch - self.batch_of(first)) // each

    def steps_for(self, batches: int) -> int:
        """How many steps it takes until so many batches are used."""
        return self.step_of(batches - 1) + 1 if batches else 0

    def share(self, first: int, last: int, *, rank: int, processes: int) -> range:
        """The batches of the steps from `first` up to `last` that one of several processes works on.

        All of them together take the batches of a step in order; what is worked on at one moment are neighbours.
        """
        return range(self.batch_of(first) + rank, self.batch_of(last), processes)
