"""What one picture draws: numbers from a range, one of several things, noise."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simpletuner.data.dice import Dice

T = TypeVar("T")


class PictureDice(Dice):
    """A row of draws for one picture, the same on every machine and in every version."""

    def between(self, low: float, high: float) -> float:
        """A number from one to the other."""
        return low + (high - low) * self.share()

    def whole(self, low: int, high: int) -> int:
        """A whole number from one to the other, both included."""
        return low + self.place(high - low + 1)

    def one_of(self, choices: Sequence[T]) -> T:
        """One of several things."""
        return choices[self.place(len(choices))]

    def noise(self, *shape: int) -> NDArray[np.float32]:
        """Numbers around 0 that deviate by 1: sums of four evenly spread ones, near enough to the normal ones."""
        count = int(np.prod(shape))
        quarters = np.atleast_1d(self._bits.random_raw(count)).view(np.uint16).reshape(count, 4)
        sums = quarters.sum(axis=1, dtype=np.float32)
        return np.asarray((sums - _MEAN) / _DEVIATION, dtype=np.float32).reshape(shape)


_MEAN = np.float32(4 * 65535 / 2)
_DEVIATION = np.float32(sqrt(4 * (2**32 - 1) / 12))
