"""Pictures that a person can judge at a glance: rows of images with the prompt and a title for each column."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_GAP = 12
_CELL = 256
_INK = (32, 33, 36)
_PAPER = (250, 250, 248)
_FAINT = (110, 112, 118)


@dataclass(frozen=True)
class Row:
    """One prompt and what was drawn for it, one image per column; None leaves its place empty."""

    prompt: str
    images: Sequence[Image.Image | None]


def sheet(title: str, columns: Sequence[str], rows: Sequence[Row], across: int = 2) -> Image.Image:
    """Lay the rows out in `across` groups side by side, each with the column titles on top.

    Small images are enlarged to 256 pixels without smoothing beyond what the eye needs; large ones are reduced.
    """
    from PIL import Image, ImageDraw

    across = min(across, len(rows))
    height = (len(rows) + across - 1) // across
    group = len(columns) * (_CELL + _GAP) + 2 * _GAP
    row_height = _CELL + 62
    top = 76
    page = Image.new("RGB", (across * group + _GAP, top + height * row_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((2 * _GAP, _GAP), title, fill=_INK, font=_font(24))
    for number, row in enumerate(rows):
        left, y = 2 * _GAP + (number % across) * group, top + (number // across) * row_height
        if number < across:
            _titles(draw, columns, left, top - 26)
        for column, image in enumerate(row.images):
            if image is not None:
                page.paste(_fitted(image), (left + column * (_CELL + _GAP), y))
        width = len(columns) * (_CELL + _GAP) // 8
        text = "\n".join(textwrap.wrap(row.prompt or "(empty prompt)", width)[:2])
        draw.multiline_text((left, y + _CELL + 6), text, fill=_INK, font=_font(15), spacing=3)
    return page


def history(prompt: str, pictures: Sequence[tuple[str, Path]], across: int = 8, most: int = 64) -> Image.Image:
    """What was made of one prompt over time, line after line; of very many pictures, some from all of the time.

    Args:
        prompt: The prompt.
        pictures: What stands below each picture, and where it is; files that are no pictures are left out.
        across: How many stand side by side.
        most: How many are shown at most.
    """
    from PIL import Image, ImageDraw

    shown = list(_opened(_spread(pictures, most)))
    across = max(1, min(across, len(shown)))
    lines = -(-len(shown) // across)
    text = textwrap.wrap(prompt or "(empty prompt)", across * (_CELL + _GAP) // 9)[:2]
    top = 2 * _GAP + 22 * len(text)
    page = Image.new("RGB", (across * (_CELL + _GAP) + _GAP, top + lines * (_CELL + 34)), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.multiline_text((_GAP, _GAP), "\n".join(text), fill=_INK, font=_font(17), spacing=3)
    for number, (label, image) in enumerate(shown):
        left, y = _GAP + (number % across) * (_CELL + _GAP), top + (number // across) * (_CELL + 34)
        page.paste(image, (left, y))
        draw.text((left, y + _CELL + 6), label, fill=_FAINT, font=_font(16))
    return page


def _spread(pictures: Sequence[tuple[str, Path]], most: int) -> Sequence[tuple[str, Path]]:
    """At most so many of them, evenly, with the first and the last."""
    if len(pictures) <= most:
        return pictures
    return [pictures[round(number * (len(pictures) - 1) / (most - 1))] for number in range(most)]


def _opened(pictures: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Image.Image]]:
    from PIL import Image

    for label, path in pictures:
        try:
            with Image.open(path) as image:
                yield label, _fitted(image)
        except OSError:  # somebody cleaned up, or wrote there; the sheet is only a view
            continue


def _titles(draw: ImageDraw.ImageDraw, columns: Sequence[str], left: int, y: int) -> None:
    for column, name in enumerate(columns):
        draw.text((left + column * (_CELL + _GAP), y), name, fill=_FAINT, font=_font(16))


def _fitted(image: Image.Image) -> Image.Image:
    from PIL import Image, ImageOps

    return ImageOps.pad(image.convert("RGB"), (_CELL, _CELL), Image.Resampling.BICUBIC, color=_PAPER)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
