"""Which images look alike: what each one looks like in a few bytes, and groups of those that hardly differ.

Two hashes say how an image is built: one whether it gets brighter from place to place, one which waves it consists of.
Both survive another size, file format or quality. Images whose hashes are close are compared by a grid of colours, so
that a red square on white and a blue one are two images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bits = NDArray[np.uint64]
Numbers = NDArray[np.int64]

GRID = 8
"""Colours are compared on a grid of this many places across and down."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one image looks like."""

    gradients: int
    """One bit for each of 64 places: whether it gets brighter to the right."""
    waves: int
    """One bit for each of 64 low frequencies: whether there is more of it than of most."""
    colours: bytes
    """The mean colours on the grid: red, green and blue of each place."""


@dataclass(frozen=True)
class Looks:
    """What many images look like; each array has one row for each image."""

    gradients: Bits
    waves: Bits
    colours: NDArray[np.uint8]
    """With shape (images, 3 * GRID * GRID)."""

    @classmethod
    def of(cls, looks: list[Look]) -> Looks:
        """The columns of single looks."""
        return cls(
            np.array([look.gradients for look in looks], dtype=np.uint64),
            np.array([look.waves for look in looks], dtype=np.uint64),
            np.frombuffer(b"".join(look.colours for look in looks), dtype=np.uint8).reshape(len(looks), -1),
        )


def look_at(image: Image.Image) -> Look:
    """What an RGB image of any size looks like."""
    small = image.reduce(max(1, min(image.size) // (2 * _WAVES)))  # a quick average first: the rest is small then
    grey = small.convert("L")
    return Look(_gradients(grey), _waves(grey), small.resize((GRID, GRID), Image.Resampling.BOX).tobytes())


def groups(looks: Looks) -> tuple[tuple[int, ...], ...]:
    """The images that look alike, as groups of their places; the first group has the most.

    Images in one group need not all be close to each other: it is enough that each is close to another one.
    """
    rows = np.concatenate([looks.gradients[:, None], looks.waves[:, None], looks.colours.view(np.uint64)], axis=1)
    _, first, same = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    alike = _joined(Looks(looks.gradients[first], looks.waves[first], looks.colours[first]))
    return _sorted_out(alike[same.reshape(-1)])


def _gradients(grey: Image.Image) -> int:
    values = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    # A plain background must not decide by its noise, so a place has to be brighter by something that can be seen.
    return _packed(values[:, 1:] - values[:, :-1] > _VISIBLE)


def _waves(grey: Image.Image) -> int:
    values = np.asarray(grey.resize((_WAVES, _WAVES), Image.Resampling.BOX), dtype=np.float64)
    cosines = _cosines()
    low = cosines @ values @ cosines.T
    low[0, 0] = 0.0
    return _packed(low > np.median(low))


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """The eight lowest rows of the cosine transform."""
    places = np.arange(_WAVES) + 0.5
    found: NDArray[np.float64] = np.cos(np.pi / _WAVES * np.arange(8)[:, None] * places[None, :])
    return found


def _packed(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _joined(looks: Looks) -> Numbers:
    """For each image the smallest place of its group."""
    joined = np.arange(len(looks.gradients))
    for members in _candidates(looks):
        step = max(1, _PAIRS_AT_ONCE // len(members))
        for start in range(0, len(members), step):
            rows, others = members[start : start + step], members[start:]
            one, other = _close(looks, rows, others)
            apart = joined[one] != joined[other]
            joined = _merged(joined, *_same_colours(looks, one[apart], other[apart]))
    return joined


def _candidates(looks: Looks) -> Iterator[Numbers]:
    """Sets of images in which every pair of close images comes together at least once.

    Hashes that differ in at most n bits are equal in at least one of n + 1 parts, so only images that share a part are
    compared: for a hundred thousand images a hundredth of all pairs.
    """
    for members in _sharing_a_part(looks.gradients, _MOST_GRADIENTS):
        if len(members) <= _FEW:
            yield members
        else:  # plain backgrounds have much in common; their waves tell them apart
            yield from (members[some] for some in _sharing_a_part(looks.waves[members], _MOST_WAVES))


def _sharing_a_part(hashes: Bits, most: int) -> Iterator[Numbers]:
    edges = np.linspace(0, 64, most + 2).astype(int)
    for low, high in pairwise(edges):
        part = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(part, kind="stable")
        borders = np.nonzero(np.diff(part[order]))[0] + 1
        yield from (members for members in np.split(order, borders) if len(members) > 1)


def _close(looks: Looks, rows: Numbers, others: Numbers) -> tuple[Numbers, Numbers]:
    """The pairs of one of `rows` and one of `others` whose hashes are close."""
    distance = np.bitwise_count(looks.gradients[rows][:, None] ^ looks.gradients[others][None, :])
    row, column = np.nonzero(distance <= _MOST_GRADIENTS)
    one, other = rows[row], others[column]
    close = (one < other) & (np.bitwise_count(looks.waves[one] ^ looks.waves[other]) <= _MOST_WAVES)
    return one[close], other[close]


def _same_colours(looks: Looks, one: Numbers, other: Numbers) -> tuple[Numbers, Numbers]:
    """The pairs whose colours agree, but for a few places: a watermark makes no new image."""
    kept = [np.zeros(0, dtype=bool)]
    for start in range(0, len(one), _COLOURS_AT_ONCE):
        part = slice(start, start + _COLOURS_AT_ONCE)
        apart = np.abs(looks.colours[one[part]].astype(np.int16) - looks.colours[other[part]])
        changed = (apart.reshape(len(apart), GRID * GRID, 3).max(axis=2) > _OTHER_COLOUR).sum(axis=1)
        kept.append((apart.mean(axis=1) <= _MEAN_COLOUR) & (changed <= _CHANGED_PLACES))
    same = np.concatenate(kept)
    return one[same], other[same]


def _merged(joined: Numbers, left: Numbers, right: Numbers) -> Numbers:
    """The groups after these pairs have come together."""
    while (apart := joined[left] != joined[right]).any():
        left, right = left[apart], right[apart]
        one, other = joined[left], joined[right]
        np.minimum.at(joined, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(higher := joined[joined], joined):
            joined = higher
    return joined


def _sorted_out(joined: Numbers) -> tuple[tuple[int, ...], ...]:
    order = np.argsort(joined, kind="stable")
    borders = np.nonzero(np.diff(joined[order]))[0] + 1
    found = [tuple(map(int, members)) for members in np.split(order, borders) if len(members) > 1]
    return tuple(sorted(found, key=lambda members: (-len(members), members)))


# Measured on 987 photographs, drawings and screenshots: more than nine in ten are found again after they were halved,
# quartered, saved at quality 20 or brightened by a twelfth, 87 % cropped by a hundredth on each side, 72 % with a white
# mark in a corner. What else was found were diagrams of one kind.
_WAVES = 32
_VISIBLE = 1
_MOST_GRADIENTS = 7
_MOST_WAVES = 10
_MEAN_COLOUR = 11.0
_OTHER_COLOUR = 48
_CHANGED_PLACES = 4
_FEW = 3000
_PAIRS_AT_ONCE = 1_000_000
_COLOURS_AT_ONCE = 100_000
