"""Which file of one data set belongs to which file of another: `a.png` is the mask of `a.jpg`."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simpletuner.data.captions.spelling import composed
from simpletuner.data.items import Size


@dataclass(frozen=True)
class Pairing:
    """What belongs to what, and what is left over on either side."""

    partners: NDArray[np.int64]
    """For each file of the one side its place on the other side, or -1 when it has no partner there."""
    lonely: tuple[str, ...]
    """Files of the one side without a partner, in their order."""
    surplus: tuple[str, ...]
    """Files of the other side that belong to nothing, in their order."""


def pair(sources: Sequence[str], others: Sequence[str]) -> Pairing:
    """Find a partner for each source among the others, whatever order either is listed in.

    A file of exactly the same path belongs to its namesake alone. Any other file belongs to all sources whose path
    without its ending is the same, however its accents are spelled; when several files could be the partner, the first
    in the alphabet is.
    """
    exact = {key: place for place, key in enumerate(others)}
    partners = np.fromiter((exact.get(key, -1) for key in sources), dtype=np.int64, count=len(sources))
    single = np.flatnonzero(partners < 0).tolist()
    if single:
        free = sorted(_left(others, partners), key=others.__getitem__, reverse=True)
        stems = {_stem(others[place]): place for place in free}  # of several, the last in this order remains
        partners[single] = [stems.get(_stem(sources[place]), -1) for place in single]
    lonely = tuple(sources[place] for place in np.flatnonzero(partners < 0).tolist())
    return Pairing(partners, lonely, tuple(others[place] for place in _left(others, partners)))


def unpaired(pairing: Pairing, sources: str, others: str) -> Iterator[tuple[str, str]]:
    """Every file that is left over, each with the reason, for the report on them.

    Args:
        pairing: What was found.
        sources: The id of the data set that wants partners.
        others: The id of the data set with the partners.
    """
    yield from ((key, f"no file of '{others}' has this name, with any ending") for key in pairing.lonely)
    yield from ((key, f"no image of '{sources}' has this name, with any ending") for key in pairing.surplus)


def same_shape(one: Size, other: Size) -> bool:
    """Whether one image may be the other in another resolution, whose edges were rounded to whole pixels."""
    return abs(one.width * other.height - other.width * one.height) <= max(one) + max(other)


def _left(others: Sequence[str], partners: NDArray[np.int64]) -> list[int]:
    """The places of the others that are nobody's partner."""
    free = np.ones(len(others), dtype=bool)
    free[partners[partners >= 0]] = False
    return [int(place) for place in np.flatnonzero(free)]


def _stem(key: str) -> str:
    return composed(os.path.splitext(key)[0])
