"""The buckets of sd-scripts: the same images get the same sizes as there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from math import sqrt
from typing import NamedTuple

from simpletuner.data.items import Size


class Limits(NamedTuple):
    """What buckets may be like: their area and their edges, in pixels."""

    area: int
    shortest: int
    longest: int
    step: int
    """Edges are multiples of it."""


class Fit(NamedTuple):
    """The bucket of an image, with the size of the whole image that covers it."""

    bucket: Size
    resize: Size


@lru_cache(maxsize=64)
def buckets(limits: Limits) -> tuple[Size, ...]:
    """All buckets, sorted by width and height: none has a larger area, or edges outside of the limits."""
    return tuple(sorted({_square(limits), *_oblong(limits)}))


def nearest(size: Size, limits: Limits) -> Fit:
    """The bucket whose shape is nearest to that of the image, which may be enlarged for it."""
    bucket = _nearest(size, limits)
    aspect = size.width / size.height
    if aspect > bucket.width / bucket.height:
        return Fit(bucket, Size(_rounded(bucket.height * aspect), bucket.height))
    return Fit(bucket, Size(bucket.width, _rounded(bucket.width / aspect)))


def without_enlarging(size: Size, limits: Limits) -> Fit | None:
    """A bucket of the image's own size, or of the wanted area when it is larger; none when an edge is below a step."""
    resize = _shrunk(size, limits) if size.width * size.height > limits.area else size
    bucket = Size(_floored(resize.width, limits.step), _floored(resize.height, limits.step))
    return Fit(bucket, resize) if min(bucket) > 0 else None


def _square(limits: Limits) -> Size:
    edge = max(int(sqrt(limits.area)) // limits.step, 1) * limits.step
    return Size(edge, edge)


def _oblong(limits: Limits) -> Iterator[Size]:
    """For each width the largest height that the area allows, both ways round."""
    longest = -(-limits.longest // limits.step) * limits.step
    shortest = max(limits.shortest // limits.step, 1) * limits.step
    for width in range(shortest, longest + 1, limits.step):
        height = min(longest, _floored(limits.area // width, limits.step))
        if height >= shortest:
            yield from (Size(width, height), Size(height, width))


def _nearest(size: Size, limits: Limits) -> Size:
    known = buckets(limits)
    if size in known:
        return size
    aspect = size.width / size.height
    aspects, sizes = _by_aspect(limits)
    above = bisect_left(aspects, aspect)
    below = bisect_left(aspects, aspects[above - 1]) if above else above
    near = {below, min(above, len(sizes) - 1)}
    return min((sizes[one] for one in near), key=lambda one: (abs(one.width / one.height - aspect), one))


@lru_cache(maxsize=64)
def _by_aspect(limits: Limits) -> tuple[tuple[float, ...], tuple[Size, ...]]:
    """Buckets from the tallest to the widest; of those with one shape, the smallest comes first, as in sd-scripts."""
    sizes = sorted(buckets(limits), key=lambda one: (one.width / one.height, one))
    return tuple(one.width / one.height for one in sizes), tuple(sizes)


def _shrunk(size: Size, limits: Limits) -> Size:
    """An image of about the wanted area: one edge is a multiple of the step, and the shape is kept best."""
    aspect = size.width / size.height
    width = sqrt(limits.area * aspect)
    by_width = _floored(_rounded(width), limits.step)
    by_height = _floored(_rounded(limits.area / width), limits.step)
    if not by_width or not by_height:  # sd-scripts divides by zero here; no bucket is as thin as this
        return Size(by_width, by_height)
    if _error(by_width, _floored(_rounded(by_width / aspect), limits.step), aspect) < _error(
        _floored(_rounded(by_height * aspect), limits.step), by_height, aspect
    ):
        return Size(by_width, _rounded(by_width / aspect))
    return Size(_rounded(by_height * aspect), by_height)


def _error(width: int, height: int, aspect: float) -> float:
    return abs(width / height - aspect) if height else float("inf")


def _rounded(length: float) -> int:
    return int(length + 0.5)


def _floored(length: int, step: int) -> int:
    return length // step * step
