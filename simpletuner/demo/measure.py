"""Says what a demo picture shows, by looking at its pixels: whether the model drew what it was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from simpletuner.demo import zorb
from simpletuner.demo.shapes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, Colour, Scene, outline

Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sight:
    """What was seen; the shape is empty where it is none that we know."""

    colour: str
    shape: str
    background: str
    position: str

    def shows(self, scene: Scene) -> bool:
        """Whether all was drawn as asked, the size left aside."""
        return self == Sight(scene.colour, scene.shape, scene.background, scene.position)


def look(picture: Image.Image) -> Sight | None:
    """Name what the picture shows, or nothing if there is only background."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    background = _background(pixels)
    colour = _colour(pixels, background)
    if colour is None:
        return None
    mask = _mask(pixels, colour, background)
    box = mask.getbbox()
    if box is None:
        return None
    centre = ((box[0] + box[2]) / 2 / picture.width, (box[1] + box[3]) / 2 / picture.height)
    return Sight(
        colour=_nearest(colour, COLOURS),
        shape=_shape(mask.crop(box), picture.crop(box)),
        background=_nearest(background, BACKGROUNDS),
        position=min(POSITIONS, key=lambda name: math.dist(POSITIONS[name], centre)),
    )


def is_zorb(picture: Image.Image) -> bool:
    """Whether the picture shows a ghost with a wavy hem and two light eyes."""
    sight = look(picture)
    return sight is not None and sight.shape == "zorb"


def _background(pixels: Pixels) -> Pixels:
    is_frame = np.ones(pixels.shape[:2], dtype=bool)
    is_frame[3:-3, 3:-3] = False
    return _median(pixels[is_frame])


def _colour(pixels: Pixels, background: Pixels) -> Pixels | None:
    """The colour most of the figure has: eyes and edges are outvoted."""
    figure = pixels[_distance(pixels, background) > _VISIBLE]
    if len(figure) < _SMALLEST_FIGURE:
        return None
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    names = _distance(figure[:, None], palette).argmin(axis=1)
    return _median(figure[names == np.bincount(names).argmax()])


def _mask(pixels: Pixels, colour: Pixels, background: Pixels) -> Image.Image:
    """White where the figure's colour is, without specks."""
    distance = _distance(pixels, colour)
    is_figure = (distance < _distance(pixels, background)) & (distance < 0.75 * _distance(colour, background))
    return Image.fromarray(is_figure).convert("L").filter(ImageFilter.MedianFilter(5))


def _shape(mask: Image.Image, picture: Image.Image) -> str:
    """The shape with the largest overlap, once its box is stretched over the figure's."""
    figure = _stretched(mask)
    overlaps = {name: _overlap(figure, template) for name, template in _templates().items()}
    best = max(overlaps, key=lambda name: overlaps[name])
    if overlaps[best] < _SMALLEST_OVERLAP or (best == "zorb" and not _has_light_eyes(picture)):
        return ""
    return best


def _has_light_eyes(picture: Image.Image) -> bool:
    pixels = np.asarray(picture.convert("RGB").resize((_STRETCHED,) * 2), dtype=np.float64)
    is_light = pixels.min(axis=-1) > _LIGHT
    return all(is_light[eye].mean() > 0.2 for eye in _eyes())


@cache
def _templates() -> Mapping[str, Mask]:
    figures = {name: outline(shape, centre=(0.5, 0.5), radius=0.35) for name, shape in SHAPES.items()}
    gown, holes = (outline(part, centre=(0.5, 0.5), radius=0.35) for part in (zorb.body, zorb.eyes))
    figures["zorb"] = Image.composite(Image.new("L", gown.size, 0), gown, holes)
    return {name: _stretched(figure.crop(figure.getbbox())) for name, figure in figures.items()}


@cache
def _eyes() -> tuple[Mask, Mask]:
    """Where the left and the right eye lie in a stretched zorb."""
    box = outline(zorb.body, centre=(0.5, 0.5), radius=0.35).getbbox()
    eyes = _stretched(outline(zorb.eyes, centre=(0.5, 0.5), radius=0.35).crop(box))
    is_left = np.arange(_STRETCHED) < _STRETCHED / 2
    return eyes & is_left, eyes & ~is_left


def _stretched(mask: Image.Image) -> Mask:
    return np.asarray(mask.resize((_STRETCHED,) * 2)) > 127


def _overlap(one: Mask, other: Mask) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum())


def _nearest(colour: Pixels, palette: Mapping[str, Colour]) -> str:
    return min(palette, key=lambda name: math.dist(palette[name], colour))


def _median(colours: Pixels) -> Pixels:
    median: Pixels = np.median(colours, axis=0)
    return median


def _distance(pixels: Pixels, colour: Pixels) -> Pixels:
    distance: Pixels = np.linalg.norm(pixels - colour, axis=-1)
    return distance


_VISIBLE = 45.0
"""How far a colour lies from the background's where we begin to see a figure, of 441 from black to white."""
_SMALLEST_FIGURE = 100
_SMALLEST_OVERLAP = 0.7
_STRETCHED = 64
_LIGHT = 165.0
"""The darkest value of any channel in the white of an eye."""
