"""Which pieces of the network are on the device while one of them computes: pure functions of its number."""

from __future__ import annotations

from collections.abc import Callable

Wanted = Callable[[int, bool], frozenset[int]]
"""From the number of the piece that computes, and whether it computes backward, to the pieces that are wanted."""


def window(count: int, swapped: int) -> Wanted:
    """A window that moves along the blocks and back, as sd-scripts swaps blocks.

    Forward, the first blocks make room for the last ones as soon as they have computed; backward the other way
    round. Each copy has the time of all blocks between to arrive.

    Args:
        count: How many blocks there are.
        swapped: How many of them are not on the device, at any time.
    """
    size = count - swapped

    def wanted(position: int, backward: bool) -> frozenset[int]:
        # One block that has just been used stays while the next computes: its memory is still being read.
        passed = min(max(count - 2 - position, 0), swapped)
        start = min(swapped - passed if backward else swapped, position)
        return frozenset(range(start, start + size))

    return wanted


def neighbours(*, ahead: bool) -> Wanted:
    """The piece that computes, and, if asked for, the one that came next the last time."""
    follower: tuple[dict[int, int], dict[int, int]] = ({}, {})
    last: list[int | None] = [None, None]

    def wanted(position: int, backward: bool) -> frozenset[int]:
        before, last[backward] = last[backward], position
        if before is not None and before != position:
            follower[backward][before] = position
        coming = {follower[backward][position]} if ahead and position in follower[backward] else set()
        return frozenset({position, *coming})

    return wanted
