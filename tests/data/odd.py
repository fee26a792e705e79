"""Odd and hostile image files, made on the spot: each one is known to be usable or not."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


def usable() -> Mapping[str, bytes]:
    """Files that are unusual, but show something."""
    noise = _noise()
    grey = noise.convert("L")
    return {
        "a.png": _saved(noise, "PNG"),
        "cmyk.jpg": _saved(noise.convert("CMYK"), "JPEG"),
        "progressive.jpg": _saved(noise, "JPEG", progressive=True),
        "really a jpeg.png": _saved(noise, "JPEG"),
        "really a webp.jpg": _saved(noise, "WEBP"),
        "really a gif.png": _saved(noise, "GIF"),
        "really a tiff.jpg": _saved(noise, "TIFF"),
        "really a bitmap.jpg": _saved(noise, "BMP"),
        "really avif.jpg": _saved(noise, "AVIF"),
        "really jpeg 2000.jpg": _saved(noise, "JPEG2000"),
        "grey.png": _saved(grey, "PNG"),
        "grey with alpha.png": _saved(Image.merge("LA", (grey, grey)), "PNG"),
        "two colours.png": _saved(noise.convert("1"), "PNG"),
        "palette.png": _saved(noise.convert("P"), "PNG", transparency=3),
        "sixteen bits.png": _saved(Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257), "PNG"),
        "transparent.png": _saved(Image.merge("RGBA", (*noise.split(), grey)), "PNG"),
        "transparent.webp": _saved(Image.merge("RGBA", (*noise.split(), grey)), "WEBP"),
        "moving.webp": _saved(noise, "WEBP", save_all=True, append_images=[noise.rotate(90)]),
        "moving.png": _saved(noise, "PNG", save_all=True, append_images=[noise.rotate(90)]),
        "on its side.jpg": _saved(noise, "JPEG", exif=_orientation(6)),
        "no such way up.jpg": _saved(noise, "JPEG", exif=_orientation(99)),
        "broken exif.jpg": _saved(noise, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0"),
        "broken colours.jpg": _saved(noise, "JPEG", icc_profile=b"no profile"),
        "rubbish behind it.jpg": _saved(noise, "JPEG") + b"<html>" * 50,
        "comments.png": _saved(noise, "PNG", pnginfo=_comments()),
    }


def useless() -> Mapping[str, bytes]:
    """Files that nobody can train on, and some that are meant to do harm."""
    jpeg, png = _saved(_noise(), "JPEG"), _saved(_noise(), "PNG")
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    return {
        "empty.png": b"",
        "one byte.jpg": b"\xff",
        "page.jpg": b"<!doctype html><html><title>404 not found</title></html>" * 20,
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>',
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(quit) run\n",
        "document.jpg": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "archive.png": _archive(),
        "random.jpg": np.random.default_rng(2).bytes(4000),
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "head only.png": png[:33],
        "flipped.png": bytes(broken),
        "bomb.png": _png(60000, 60000),
        "larger than any.png": _png(2**31 - 1, 2**31 - 1),
        "flat.png": _png(0, 64),
        "deceiver.jpg": jpeg.replace(struct.pack(">HH", 96, 64), struct.pack(">HH", 65000, 65000)),
        "speck.png": _saved(Image.new("RGB", (1, 1)), "PNG"),
    }


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (96, 64, 3), dtype=np.uint8))


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def _comments() -> PngImagePlugin.PngInfo:
    """Texts that unpack to far more than they are."""
    found = PngImagePlugin.PngInfo()
    found.add_text("Comment", "x" * 500_000, zip=True)
    return found


def _png(width: int, height: int) -> bytes:
    """A picture that says it is this large, with next to nothing in it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunks(chunks))


def _chunks(chunks: tuple[tuple[bytes, bytes], ...]) -> Iterator[bytes]:
    for name, data in chunks:
        yield struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "no picture")
    return buffer.getvalue()
