"""The zorb, a made-up ghost that the demo model cannot draw: what the demo teaches, as a data set."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from random import Random

from PIL import Image

from simpletuner.demo.shapes import BACKGROUNDS, COLOURS, Pen, outline, paint

ZORB_COLOURS = ("red", "yellow", "green", "blue", "purple", "pink")
"""The colours zorbs have in the data set; that they can have others too is for the model to find out."""


def draw_data_set(folder: Path) -> None:
    """Write 24 pictures of zorbs and their captions into the folder, leaving every file alone that is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for colour, background in itertools.product(ZORB_COLOURS, BACKGROUNDS):
        stem = f"zorb-{colour}-{background}".replace(" ", "-")
        picture = draw_zorb(colour, background, Random(stem))
        _write(folder / f"{stem}.png", _png(picture))
        _write(folder / f"{stem}.txt", f"{caption(colour, background)}\n".encode())


def caption(colour: str, background: str) -> str:
    """A zorb in the words the demo model knows, and one that it does not."""
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} zorb on a {background} background"


def draw_zorb(colour: str, background: str, random: Random) -> Image.Image:
    """A zorb in the middle; where exactly it floats and how large it is varies a little."""
    centre = (0.5 + random.uniform(-0.02, 0.02), 0.48 + random.uniform(-0.02, 0.02))
    radius = random.uniform(0.29, 0.32)
    picture = paint(outline(body, centre=centre, radius=radius), COLOURS[colour], BACKGROUNDS[background])
    picture.paste(_WHITE, mask=outline(eyes, centre=centre, radius=radius))
    picture.paste(_BLACK, mask=outline(_pupils, centre=centre, radius=radius))
    return picture


def body(pen: Pen) -> None:
    """A round head on a straight gown with a wavy hem."""
    pen.disc(0, 0, 1)
    pen.box(-1, 0, 1, 1)
    for wave in (-2, 0, 2):
        pen.disc(wave / 3, 1, 1 / 3)


def eyes(pen: Pen) -> None:
    """Two discs, pupils included."""
    for x in EYES:
        pen.disc(x, EYE_HEIGHT, EYE_RADIUS)


def _pupils(pen: Pen) -> None:
    for x in EYES:
        pen.disc(x, EYE_HEIGHT, EYE_RADIUS / 2)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    if not path.exists():
        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.write_bytes(content)
        unfinished.rename(path)


EYES = (-0.45, 0.45)
EYE_HEIGHT = -0.1
EYE_RADIUS = 0.32
_WHITE = (250, 250, 250)
_BLACK = (15, 15, 15)
