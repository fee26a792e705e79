"""Pictures as files: their names, their formats, and what a file says about the picture in it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.training.prompts import Shot

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Format:
    """A kind of file that pictures are saved as."""

    ending: str
    write: Callable[[Image.Image, Mapping[str, str], int], bytes]
    """Makes the file of a picture, with some words about it, in a quality from 1 to 100."""


def file_name(step: int, shot: Shot, number: int, look: str, kind: str) -> str:
    """The name of a picture's file.

    Args:
        step: After which it was drawn.
        shot: What was drawn.
        number: The place of the shot among all.
        look: What was put on the model besides; empty for nothing.
        kind: A name of `FORMATS`.
    """
    return f"step_{step}_{plain_name(shot, number, look)}.{FORMATS[kind].ending}"


def plain_name(shot: Shot, number: int, look: str) -> str:
    """The part of a picture's name that every step has."""
    strength = "" if shot.adapter_strength == 1 else f"_at{shot.adapter_strength:g}"
    return f"{shot.name}{f'__{look}' if look else ''}{strength}_{number}_{shot.width}x{shot.height}"


def png(image: Image.Image, texts: Mapping[str, str] | None = None, quality: int = 100) -> bytes:
    """A picture as PNG, which is exact."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in (texts or {}).items():
        info.add_itxt(name, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _with_exif(kind: str) -> Callable[[Image.Image, Mapping[str, str], int], bytes]:
    def write(image: Image.Image, texts: Mapping[str, str], quality: int) -> bytes:
        exif = image.getexif()
        exif[_DESCRIPTION] = "; ".join(f"{name}: {text}" for name, text in texts.items()).encode()
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=quality, exif=exif)
        return buffer.getvalue()

    return write


_DESCRIPTION = 0x010E
"""ImageDescription."""

FORMATS: Mapping[str, Format] = {
    "png": Format("png", png),
    "webp": Format("webp", _with_exif("WEBP")),
    "jpeg": Format("jpg", _with_exif("JPEG")),
    "jpg": Format("jpg", _with_exif("JPEG")),
}
