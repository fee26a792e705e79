"""Pictures that a person can judge at a glance: rows of images with the prompt and a title for each column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_GAP = 12
_CELL = 256
_INK = (32, 33, 36)
_PAPER = (250, 250, 248)


@dataclass(frozen=True)
class Row:
    """One prompt and what was drawn for it, one image per column."""

    prompt: str
    images: Sequence[Image.Image]


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
            page.paste(_fitted(image), (left + column * (_CELL + _GAP), y))
        width = len(columns) * (_CELL + _GAP) // 8
        text = "\n".join(textwrap.wrap(row.prompt or "(empty prompt)", width)[:2])
        draw.multiline_text((left, y + _CELL + 6), text, fill=_INK, font=_font(15), spacing=3)
    return page


def _titles(draw: ImageDraw.ImageDraw, columns: Sequence[str], left: int, y: int) -> None:
    for column, name in enumerate(columns):
        draw.text((left + column * (_CELL + _GAP), y), name, fill=(110, 112, 118), font=_font(16))


def _fitted(image: Image.Image) -> Image.Image:
    from PIL import Image, ImageOps

    return ImageOps.pad(image.convert("RGB"), (_CELL, _CELL), Image.Resampling.BICUBIC, color=_PAPER)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
