"""What the number in `resolution` measures: from an aspect ratio to the size of a bucket, as in SimpleTuner."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from simpletuner.data.items import Size
from simpletuner.schema import Choice


def in_words(value: float, resolution_type: str) -> str:
    """A size with its unit: "512 px" or "0.5 megapixels"."""
    return f"{value:g} megapixels" if resolution_type == "area" else f"{value:g} px"


def pixels(value: float, resolution_type: str) -> float:
    """How many pixels a size stands for: it is in megapixels, or the edge of a square."""
    return value * 1e6 if resolution_type == "area" else value**2


def by_pixel(aspect: float, resolution: float, alignment: int) -> Size:
    """The shorter edge in pixels, say 1024."""
    width = resolution * aspect if aspect > 1 else resolution
    height = resolution / aspect if aspect < 1 else resolution
    return Size(_aligned(int(width), alignment), _aligned(int(height), alignment))


def by_area(aspect: float, resolution: float, alignment: int) -> Size:
    """The area in megapixels, say 1.0 or 0.5."""
    edge = _aligned(int(sqrt(resolution * 1e6)), alignment)
    if aspect == 1:
        square = _square_edge(resolution, edge)
        return Size(square, square)
    return Size(_aligned(edge * sqrt(aspect), alignment), _aligned(edge / sqrt(aspect), alignment))


def by_pixel_area(aspect: float, resolution: float, alignment: int) -> Size:
    """The edge in pixels of a square with the wanted area, say 1024."""
    return by_area(aspect, resolution**2 / 1e6, alignment)


def _aligned(length: float, alignment: int) -> int:
    """The nearest multiple, with Python's rounding of ties, as SimpleTuner has it; never nothing."""
    return max(round(length / alignment), 1) * alignment


def _square_edge(megapixels: float, edge: int) -> int:
    """Squares of well-known areas have well-known edges in SimpleTuner: half a megapixel is 768, not 704."""
    return next((known for area, known in _KNOWN_SQUARES.items() if abs(megapixels - area) <= 0.05), edge)


_KNOWN_SQUARES = {0.25: 512, 0.5: 768, 1.0: 1024, 2.0: 1536, 4.0: 2048}


RESOLUTION_TYPES: Choice[Callable[[float, float, int], Size]] = Choice(
    "resolution type", {"pixel": by_pixel, "area": by_area, "pixel_area": by_pixel_area}
)
