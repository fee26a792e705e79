"""Masks with shapes that are drawn at random, for models that fill in what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, pi, sin, sqrt
from typing import Annotated, ClassVar, NamedTuple

from PIL import Image, ImageDraw, ImageFilter, ImageOps
from pydantic import Field, model_validator

from simpletuner.data.generators.base import Generator
from simpletuner.data.generators.dice import PictureDice
from simpletuner.schema import Choice, Listed, conflict, words

Point = tuple[float, float]


class Shape(NamedTuple):
    """One shape of about the area 1, around the point (0, 0)."""

    outline: tuple[Point, ...]
    """The corners of what is filled, or the points that a brush goes through."""
    thickness: float = 0.0
    """Of the brush; 0 for a filled shape."""


def rectangle(dice: PictureDice) -> Shape:
    """An upright rectangle, up to twice as long as wide."""
    stretch = sqrt(2.0 ** dice.between(-1, 1))
    x, y = stretch / 2, 1 / stretch / 2
    return Shape(((-x, -y), (x, -y), (x, y), (-x, y)))


def circle(dice: PictureDice) -> Shape:
    """A circle."""
    return Shape(_round([sqrt(1 / pi)] * _CORNERS))


def irregular(dice: PictureDice) -> Shape:
    """A blot with many corners."""
    return Shape(_round([sqrt(1 / pi) * dice.between(0.55, 1.45) for _ in range(dice.whole(7, 14))]))


def brush(dice: PictureDice) -> Shape:
    """A winding stroke of a thick brush."""
    x = y = 0.0
    heading, points = dice.between(0, 2 * pi), [(0.0, 0.0)]
    for _ in range(dice.whole(4, 9)):
        heading += dice.between(-1.2, 1.2)
        x, y = x + 0.4 * cos(heading), y + 0.4 * sin(heading)
        points.append((x, y))
    middle = points[len(points) // 2]  # on the stroke, so that it covers any image if only it is large enough
    return Shape(tuple((x - middle[0], y - middle[1]) for x, y in points), dice.between(0.25, 0.45))


MASK_TYPES: Choice[Callable[[PictureDice], Shape]] = Choice(
    "mask type", {"rectangle": rectangle, "circle": circle, "brush": brush, "irregular": irregular}
)


class RandomMasks(Generator):
    """Draws white shapes on black, or takes these parts out of the images."""

    name: ClassVar[str] = "random_masks"
    usual: ClassVar[str] = "mask"

    mask_types: Annotated[tuple[Annotated[str, MASK_TYPES], ...], Listed] = Field(
        default=tuple(MASK_TYPES), min_length=1
    )
    """The shapes that are drawn."""
    min_coverage: float = Field(default=0.1, ge=0, le=1)
    """The smallest share of an image that the shapes cover."""
    max_coverage: float = Field(default=0.5, gt=0, le=1)
    """The largest share of an image that the shapes cover."""
    min_masks: int = Field(default=1, ge=1, le=1000)
    """The smallest number of shapes in an image."""
    max_masks: int = Field(default=5, ge=1, le=1000)
    """The largest number of shapes in an image."""
    edge_blur: float = Field(default=0.0, ge=0, le=1000)
    """How far the edges of the shapes are blurred, in pixels of the original."""
    output_mode: Annotated[
        str,
        words(
            "output mode",
            {
                "mask": "White shapes on black.",
                "masked_image": "The image, black where the shapes are.",
            },
        ),
    ] = "mask"
    """What is made."""
    invert_mask: bool = False
    """Black shapes on white."""

    @model_validator(mode="after")
    def _in_order(self) -> RandomMasks:
        if self.min_coverage > self.max_coverage:
            message = f"{self.min_coverage:g} is more than max_coverage, {self.max_coverage:g}"
            raise conflict("min_coverage", message)
        if self.min_masks > self.max_masks:
            raise conflict("min_masks", f"{self.min_masks} is more than max_masks, {self.max_masks}")
        return self

    @property
    def draws(self) -> bool:
        """Always."""
        return True

    def make(self, image: Image.Image, dice: PictureDice) -> Image.Image:
        """A mask of the size of the image, or the image without what the mask covers."""
        mask = self.mask(image.size, dice)
        if self.output_mode == "mask":
            return mask.convert("RGB")
        return Image.composite(Image.new("RGB", image.size), image, mask)

    def mask(self, size: tuple[int, int], dice: PictureDice) -> Image.Image:
        """White shapes on black, in shades of grey."""
        coverage = dice.between(self.min_coverage, self.max_coverage)
        shapes = [_placed(dice, MASK_TYPES[dice.one_of(self.mask_types)]) for _ in range(self._count(dice))]
        mask = _drawn(shapes, size, _scale(shapes, size, coverage))
        mask = mask.filter(ImageFilter.GaussianBlur(self.edge_blur)) if self.edge_blur else mask
        return ImageOps.invert(mask) if self.invert_mask else mask

    def _count(self, dice: PictureDice) -> int:
        return dice.whole(self.min_masks, self.max_masks)


class _Placed(NamedTuple):
    """A shape with its middle, in shares of the width and the height, and its size beside the other shapes."""

    shape: Shape
    middle: Point
    size: float


def _placed(dice: PictureDice, draw: Callable[[PictureDice], Shape]) -> _Placed:
    middle = dice.between(_MARGIN, 1 - _MARGIN), dice.between(_MARGIN, 1 - _MARGIN)
    return _Placed(draw(dice), middle, dice.between(0.6, 1.4))


def _scale(shapes: Sequence[_Placed], size: tuple[int, int], coverage: float) -> float:
    """How large the shapes must be drawn to cover this share together, found by halving on a small copy."""
    shrink = min(_PREVIEW / max(size), 1.0)
    small = max(round(size[0] * shrink), 1), max(round(size[1] * shrink), 1)
    low, high = 0.0, _LARGEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _covered(_drawn(shapes, small, middle)) < coverage else (low, middle)
    return high


def _covered(mask: Image.Image) -> float:
    return mask.histogram()[255] / (mask.width * mask.height)


def _drawn(shapes: Sequence[_Placed], size: tuple[int, int], scale: float) -> Image.Image:
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    unit = scale * sqrt(size[0] * size[1])
    for shape, (left, top), relative in shapes:
        points = [(left * size[0] + x * unit * relative, top * size[1] + y * unit * relative) for x, y in shape.outline]
        if shape.thickness:
            _stroke(pen, points, shape.thickness * unit * relative)
        else:
            pen.polygon(points, fill=255)
    return mask


def _stroke(pen: ImageDraw.ImageDraw, points: Sequence[Point], thickness: float) -> None:
    """A line with round corners and round ends."""
    pen.line(points, fill=255, width=max(round(thickness), 1))
    radius = thickness / 2
    for x, y in points:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def _round(radii: Sequence[float]) -> tuple[Point, ...]:
    """Corners at even angles around the middle."""
    step = 2 * pi / len(radii)
    return tuple((radius * cos(step * n), radius * sin(step * n)) for n, radius in enumerate(radii))


_CORNERS = 96
_MARGIN = 0.15
_PREVIEW = 256
_LARGEST = 16.0
_HALVINGS = 16
