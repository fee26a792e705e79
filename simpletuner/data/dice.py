"""Draws that come out the same on every machine and in every version: orders, places and shares."""

from __future__ import annotations

import numpy as np


class Dice:
    """A row of draws that a seed decides; numpy promises the raw bits of its generator for ever."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def order(self, count: int) -> list[int]:
        """The numbers below `count`, each once, in a drawn order."""
        keys = np.atleast_1d(self._bits.random_raw(count))
        return [int(place) for place in np.argsort(keys, kind="stable")]

    def place(self, count: int) -> int:
        """One of the numbers below `count`."""
        return int(self._bits.random_raw()) % count

    def share(self) -> float:
        """A number from [0, 1)."""
        return share(int(self._bits.random_raw()) >> 1)


def share(seed: int) -> float:
    """The number from [0, 1) that the 63 bits of a derived seed stand for."""
    return (seed >> 10) * 2.0**-53
