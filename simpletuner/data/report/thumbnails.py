"""Small pictures for the page: each shows a whole image, and which part of it training never sees."""

from __future__ import annotations

import base64
import io
import struct
from dataclasses import dataclass

from PIL import Image, ImageOps

from simpletuner.data import images
from simpletuner.data.dataset import Dataset
from simpletuner.data.geometry import LARGEST
from simpletuner.data.items import Box, Placement, Record, Size

EDGE = 160
"""The longer edge of a thumbnail in pixels."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture that needs no other file."""

    uri: str
    """The picture itself, as a data address."""
    size: Size
    kept: Box
    """The part that is trained on, in pixels of the thumbnail."""
    name: str
    """Where the image is."""
    about: str
    """What happens to it, in words."""


def thumbnail(dataset: Dataset, record: Record) -> Thumbnail | None:
    """The thumbnail of one record, or nothing when its image cannot be decoded."""
    name = dataset.source.name(record.key)
    try:
        picture = shrunk(dataset.source.read(record.key), name, EDGE)
    except images.Unreadable:
        return None
    picture.thumbnail((EDGE, EDGE), Image.Resampling.BOX)
    size = Size(*picture.size)
    return Thumbnail(_uri(picture), size, _kept(size, record.placement), name, in_words(record))


def shrunk(data: bytes, name: str, edge: int) -> Image.Image:
    """The upright picture in RGB, not necessarily whole in size, but with no edge below `edge` for that.

    A JPEG is decoded at a half, a quarter or an eighth of its size, which takes a fraction of the time.
    """
    quick = _at_a_fraction(data, edge) if data.startswith(b"\xff\xd8") else None
    return quick or images.decode(data, name)


def lost(placement: Placement) -> float:
    """The share of the picture that is cropped away."""
    resize, bucket = placement.resize, placement.bucket
    return max(0.0, 1 - bucket.width * bucket.height / (resize.width * resize.height))


def in_words(record: Record) -> str:
    """What happens to an image: "1200x800, shrunk to 67%, 12% cropped away"."""
    scale = record.placement.resize.width / record.size.width
    sizing = "" if round(scale, 2) == 1 else f", {'enlarged' if scale > 1 else 'shrunk'} to {scale:.0%}"
    away = round(100 * lost(record.placement))
    return f"{record.size}{sizing}, {f'{away}% cropped away' if away else 'nothing cropped away'}"


def _at_a_fraction(data: bytes, edge: int) -> Image.Image | None:
    """Nothing when this is no usual JPEG, or a damaged one: the long way says what is wrong with it."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.mode not in {"RGB", "L"} or image.width * image.height > LARGEST:
                return None
            image.draft("RGB", (edge, edge))
            return ImageOps.exif_transpose(image).convert("RGB")
    except _ODD:
        return None


def _kept(size: Size, placement: Placement) -> Box:
    across, down = size.width / placement.resize.width, size.height / placement.resize.height
    left, top = placement.crop
    return Box(
        round(left * across),
        round(top * down),
        max(1, round(placement.bucket.width * across)),
        max(1, round(placement.bucket.height * down)),
    )


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=64, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


_ODD = (
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
