"""From the size of an image to its bucket, its one resize and its one crop. Pure: nothing is opened here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, sqrt
from typing import Annotated

from pydantic import BeforeValidator

from simpletuner.data.items import Placement, Size
from simpletuner.schema import Choice, words


@dataclass(frozen=True)
class Rules:
    """How one data set wants its images; sizes are in the unit of `resolution_type`."""

    resolution: float = 1024
    resolution_type: str = "pixel_area"
    crop: bool = False
    crop_style: str = "random"
    crop_aspect: str = "square"
    minimum_image_size: float | None = None
    maximum_image_size: float | None = None
    target_downsample_size: float | None = None
    minimum_aspect_ratio: float | None = None
    maximum_aspect_ratio: float | None = None
    aspect_bucket_rounding: int = 2
    alignment: int = 64
    crop_aspect_buckets: tuple[tuple[float, float], ...] = ()
    """Pairs of an aspect ratio, width divided by height, and its weight."""
    max_upscale_threshold: float | None = None
    bucket_mode: str = "aspect"
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    resize_interpolation: str = "lanczos"

    @property
    def draws_bucket(self) -> bool:
        """Whether the bucket of an image depends on chance."""
        return self.crop and self.crop_aspect == "random"

    @property
    def draws_crop(self) -> bool:
        """Whether the crop of an image depends on chance."""
        return CROP_STYLES[self.crop_style] is at_random


def place(size: Size, rules: Rules, *, draw: tuple[float, float] = (0.5, 0.5)) -> Placement:
    """What to do with an image of this size; `draw` are two numbers from [0, 1) for a random crop."""
    bucket = _target(size, rules, rules.resolution)
    resize = _cover(size, bucket)
    if _is_oversized(size, rules):
        resize = _larger(resize, _cover(size, _target(size, rules, rules.target_downsample_size or rules.resolution)))
    offset = CROP_STYLES[rules.crop_style]
    spare = resize.width - bucket.width, resize.height - bucket.height
    return Placement(resize, (offset(spare[0], draw[0]), offset(spare[1], draw[1])), bucket)


def refusal(size: Size, rules: Rules) -> str | None:
    """Why a data set does not want an image of this size, or nothing when it does."""
    if min(size) < 1:
        return "without any pixels"
    if rules.minimum_image_size is not None and _is_smaller(size, rules, rules.minimum_image_size):
        return f"smaller than minimum_image_size ({in_words(rules.minimum_image_size, rules.resolution_type)})"
    aspect = size.width / size.height
    if rules.minimum_aspect_ratio is not None and aspect < rules.minimum_aspect_ratio:
        return f"narrower than minimum_aspect_ratio ({rules.minimum_aspect_ratio:g})"
    if rules.maximum_aspect_ratio is not None and aspect > rules.maximum_aspect_ratio:
        return f"wider than maximum_aspect_ratio ({rules.maximum_aspect_ratio:g})"
    return None


def in_words(value: float, resolution_type: str) -> str:
    """A size with its unit: "512 px" or "0.5 megapixels"."""
    return f"{value:g} megapixels" if resolution_type == "area" else f"{value:g} px"


def _target(size: Size, rules: Rules, resolution: float) -> Size:
    return RESOLUTION_TYPES[rules.resolution_type](_aspect(size, rules), resolution, rules.alignment)


def _aspect(size: Size, rules: Rules) -> float:
    """The rounded aspect ratio that decides on the bucket; an extreme strip must not round to nothing."""
    if rules.crop and rules.crop_aspect == "square":
        return 1.0
    digits = rules.aspect_bucket_rounding
    return max(round(size.width / size.height, digits), 10.0**-digits)


def _cover(size: Size, bucket: Size) -> Size:
    """The smallest size of the same shape that covers the bucket, in whole pixels, rounded down."""
    if size.width * bucket.height >= bucket.width * size.height:
        return Size(max(bucket.height * size.width // size.height, bucket.width), bucket.height)
    return Size(bucket.width, max(bucket.width * size.height // size.width, bucket.height))


def _larger(one: Size, other: Size) -> Size:
    return max(one, other, key=lambda size: size.width * size.height)


def _is_smaller(size: Size, rules: Rules, limit: float) -> bool:
    if rules.resolution_type == "pixel":
        return min(size) < limit
    if rules.crop and rules.crop_aspect == "square":
        return min(size) < floor(sqrt(_pixels(rules, limit)))
    return size.width * size.height < _pixels(rules, limit)


def _is_oversized(size: Size, rules: Rules) -> bool:
    limit = rules.maximum_image_size
    if limit is None or rules.target_downsample_size is None:
        return False
    if rules.resolution_type == "pixel":
        return max(size) > limit
    return size.width * size.height > _pixels(rules, limit)


def _pixels(rules: Rules, limit: float) -> float:
    return limit * 1e6 if rules.resolution_type == "area" else limit**2


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


def at_random(spare: int, draw: float) -> int:
    """Anywhere; the place is drawn once for each image and stays the same."""
    return min(int(draw * (spare + 1)), spare)


def at_center(spare: int, draw: float) -> int:
    """The middle of the image."""
    return spare // 2


def at_corner(spare: int, draw: float) -> int:
    """The top left corner."""
    return 0


RESOLUTION_TYPES: Choice[Callable[[float, float, int], Size]] = Choice(
    "resolution type", {"pixel": by_pixel, "area": by_area, "pixel_area": by_pixel_area}
)

CROP_STYLES: Choice[Callable[[int, float], int]] = Choice(
    "crop style",
    {"random": at_random, "center": at_center, "centre": at_center, "corner": at_corner},
    later={"face": "use center, or crop the faces beforehand"},
)

INTERPOLATIONS = words(
    "interpolation",
    {"lanczos": "Sharp, for photographs and drawings alike."},
)
"""How pixels are resized."""

AspectBuckets = Annotated[tuple[tuple[float, float], ...], BeforeValidator(lambda value: value)]

CROP_ASPECTS = words(
    "crop aspect",
    {
        "square": "Every image is cropped to a square.",
        "preserve": "The shape of the image is kept, and only the edge that does not fit its bucket is cropped.",
    },
    later={
        "closest": "use preserve, which also keeps the shape",
        "random": "use preserve, or list the folder several times with different crops",
    },
)
