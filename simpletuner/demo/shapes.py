"""Captioned pictures of simple shapes: what the demo model was pretrained on, and nothing else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

SIDE = 128
"""Width and height of every demo picture, in pixels."""


@dataclass(frozen=True)
class Scene:
    """What one picture shows, in the words its captions use."""

    colour: str
    shape: str
    background: str
    position: str = "centre"
    size: str = "medium"

    @property
    def is_held_out(self) -> bool:
        """Whether pretraining never sees this mixture in any size, though it sees every pair of its words."""
        colour, shape = list(COLOURS).index(self.colour), list(SHAPES).index(self.shape)
        background, position = list(BACKGROUNDS).index(self.background), list(POSITIONS).index(self.position)
        return (3 * colour + 5 * shape + 2 * background + 7 * position) % 11 == 0


def scenes() -> Iterator[Scene]:
    """Every scene the vocabulary allows: large shapes only fit in the centre."""
    for colour, shape, background, position, size in itertools.product(COLOURS, SHAPES, BACKGROUNDS, POSITIONS, SIZES):
        if size != "large" or position == "centre":
            yield Scene(colour, shape, background, position, size)


def captions(scene: Scene) -> list[str]:
    """All phrasings of the scene; the plainest comes first."""
    size = "" if scene.size == "medium" else f"{scene.size} "
    subject = f"{size}{scene.colour} {scene.shape}{_PLACES[scene.position]}"
    article = "an" if subject[0] in "aeiou" else "a"
    return [
        f"{article} {subject} on a {scene.background} background",
        f"{article} {subject}, {scene.background} background",
        f"{subject} on {scene.background}",
    ]


def draw(scene: Scene, random: Random) -> Image.Image:
    """The scene as a picture; where exactly the shape lies and how large it is varies a little."""
    low, high = SIZES[scene.size]
    x, y = POSITIONS[scene.position]
    centre = (x + random.uniform(-0.02, 0.02), y + random.uniform(-0.02, 0.02))
    mask = outline(SHAPES[scene.shape], centre=centre, radius=random.uniform(low, high))
    return paint(mask, COLOURS[scene.colour], BACKGROUNDS[scene.background])


def outline(shape: Callable[[Pen], None], *, centre: Point, radius: float, side: int = SIDE) -> Image.Image:
    """White where the shape is, black elsewhere, with soft edges; centre and radius are fractions of the side."""
    mask = Image.new("L", (side * _OVERSAMPLING,) * 2, 0)
    scale = side * _OVERSAMPLING
    shape(Pen(ImageDraw.Draw(mask), centre[0] * scale, centre[1] * scale, radius * scale))
    return mask.reduce(_OVERSAMPLING)


def paint(mask: Image.Image, colour: Colour, background: Colour) -> Image.Image:
    """A one-coloured figure on a one-coloured background."""
    return Image.composite(Image.new("RGB", mask.size, colour), Image.new("RGB", mask.size, background), mask)


def clutter(random: Random, side: int) -> Image.Image:
    """A busy picture without a caption: it keeps the autoencoder from knowing flat shapes only."""
    picture = Image.new("RGB", (side, side), _any_colour(random))
    if random.random() < 0.5:
        slope = Image.linear_gradient("L").rotate(random.choice([0, 90, 180, 270])).resize((side, side))
        picture = Image.composite(Image.new("RGB", picture.size, _any_colour(random)), picture, slope)
    for _ in range(random.randint(2, 7)):
        shape = random.choice(list(SHAPES.values()))
        centre = (random.random(), random.random())
        mask = outline(shape, centre=centre, radius=random.uniform(0.04, 0.4), side=side)
        picture.paste(_any_colour(random), mask=mask.rotate(random.uniform(0, 90)))
    return picture


@dataclass(frozen=True)
class Pen:
    """Draws in units of a figure's radius around its centre, so that figures need no pixel numbers."""

    canvas: ImageDraw.ImageDraw
    x: float
    y: float
    radius: float

    def disc(self, x: float, y: float, radius: float, *, ink: int = 255) -> None:
        """Fill a circle."""
        self.canvas.ellipse([*self._pixel((x - radius, y - radius)), *self._pixel((x + radius, y + radius))], fill=ink)

    def box(self, left: float, top: float, right: float, bottom: float, *, ink: int = 255) -> None:
        """Fill a rectangle."""
        self.canvas.rectangle([*self._pixel((left, top)), *self._pixel((right, bottom))], fill=ink)

    def polygon(self, corners: Sequence[Point]) -> None:
        """Fill what the corners enclose."""
        self.canvas.polygon([self._pixel(corner) for corner in corners], fill=255)

    def _pixel(self, point: Point) -> Point:
        return self.x + point[0] * self.radius, self.y + point[1] * self.radius


def _circle(pen: Pen) -> None:
    pen.disc(0, 0, 1)


def _square(pen: Pen) -> None:
    pen.box(-0.9, -0.9, 0.9, 0.9)


def _triangle(pen: Pen) -> None:
    pen.polygon([(0, -1), (1.1, 0.9), (-1.1, 0.9)])


def _star(pen: Pen) -> None:
    corners = [(1.2 if corner % 2 == 0 else 0.5, math.pi * corner / 5) for corner in range(10)]
    pen.polygon([(length * math.sin(angle), -length * math.cos(angle)) for length, angle in corners])


def _ring(pen: Pen) -> None:
    pen.disc(0, 0, 1)
    pen.disc(0, 0, 0.5, ink=0)


def _cross(pen: Pen) -> None:
    pen.box(-1, -0.34, 1, 0.34)
    pen.box(-0.34, -1, 0.34, 1)


def _any_colour(random: Random) -> Colour:
    return random.randrange(256), random.randrange(256), random.randrange(256)


_OVERSAMPLING = 4

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (240, 125, 20),
    "yellow": (245, 205, 30),
    "green": (46, 160, 67),
    "blue": (38, 92, 214),
    "purple": (130, 60, 180),
    "pink": (240, 120, 185),
    "black": (25, 25, 28),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (245, 245, 245),
    "grey": (150, 150, 155),
    "light blue": (165, 210, 242),
    "beige": (232, 212, 170),
}
SHAPES: dict[str, Callable[[Pen], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}
POSITIONS: dict[str, Point] = {
    "centre": (0.5, 0.5),
    "left": (0.28, 0.5),
    "right": (0.72, 0.5),
    "top": (0.5, 0.28),
    "bottom": (0.5, 0.72),
}
SIZES: dict[str, tuple[float, float]] = {"small": (0.16, 0.18), "medium": (0.22, 0.25), "large": (0.33, 0.37)}
"""Lowest and highest radius, as fractions of the picture's side."""

_PLACES = {
    "centre": "",
    "left": " on the left",
    "right": " on the right",
    "top": " at the top",
    "bottom": " at the bottom",
}
