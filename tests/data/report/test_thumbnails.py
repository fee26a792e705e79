"""Small pictures: upright, whatever their file, and honest about what is cropped away."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from simpletuner.data import images
from simpletuner.data.report.thumbnails import EDGE, shrunk, thumbnail
from tests.data.folders import folder, opened


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def quarters() -> Image.Image:
    """Four colours, so that every turn looks different."""
    image = Image.new("RGB", (640, 480))
    for place, colour in enumerate(["red", "lime", "blue", "white"]):
        image.paste(colour, (place % 2 * 320, place // 2 * 240, place % 2 * 320 + 320, place // 2 * 240 + 240))
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    width, height = image.size
    places = [(width // 4, height // 4), (width * 3 // 4, height // 4), (width // 4, height * 3 // 4)]
    return [tuple(round(value / 64) for value in image.getpixel(place)) for place in places]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_decoded_small_and_upright_like_the_whole_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(quarters(), exif=exif)
    small, whole = shrunk(data, "a.jpg", 64), images.decode(data, "a.jpg")
    assert max(small.size) < max(whole.size)
    assert min(small.size) >= 64
    assert small.width * whole.height == small.height * whole.width
    assert corners(small) == corners(whole)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_kind_of_jpeg_becomes_rgb(mode: str) -> None:
    assert shrunk(jpeg(quarters().convert(mode)), "a.jpg", 64).mode == "RGB"


def test_a_jpeg_that_is_cut_off_is_refused_with_its_name() -> None:
    data = jpeg(quarters())
    with pytest.raises(images.Unreadable, match=r"cut\.jpg: "):
        shrunk(data[: len(data) // 2], "cut.jpg", 64)


def test_a_thumbnail_marks_what_is_kept(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"wide.png": (400, 100)})
    entry = {"id": "a", "instance_data_dir": str(tmp_path / "images"), "crop": True, "crop_style": "center"}
    (dataset,) = opened(entry, cache=tmp_path / "cache")
    made = thumbnail(dataset, dataset.records[0])
    assert made is not None
    assert (made.size, made.name) == ((EDGE, EDGE // 4), str(tmp_path / "images" / "wide.png"))
    assert made.kept == (EDGE * 3 // 8, 0, EDGE // 4, EDGE // 4)
    assert made.about == "400x100, shrunk to 64%, 75% cropped away"
    head, _, data = made.uri.partition(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == made.size
