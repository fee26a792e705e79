"""What becomes of every kind of image file, good and bad."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpletuner.data import images
from simpletuner.data.geometry import INTERPOLATIONS, Rules, place
from simpletuner.data.items import Placement, Size
from simpletuner.errors import DataError


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    return images.decode(data, "x.png")


def pixel(data: bytes, at: tuple[int, int] = (0, 0)) -> object:
    image = decoded(data)
    assert image.mode == "RGB"
    return image.getpixel(at)


def marked() -> Image.Image:
    """Three by two pixels, red at the top left."""
    image = Image.new("RGB", (24, 16), "white")
    image.paste("red", (0, 0, 8, 8))
    return image


# Where the red corner is, in the upright image, for each value of the EXIF orientation.
CORNERS = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_images_are_upright_and_their_head_tells_the_upright_size(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(marked(), format, exif=exif)
    image = decoded(data)
    assert image.size == ((16, 24) if orientation > 4 else (24, 16))
    assert images.probe(io.BytesIO(data)) == image.size
    column, row = CORNERS[orientation]
    corner = (3 if not column else image.width - 4, 3 if not row else image.height - 4)
    red, green, blue = np.asarray(image)[corner[1], corner[0]].tolist()
    assert red > 200 > 100 > max(green, blue)


def jpeg_with(*segments: bytes) -> bytes:
    """A JPEG with segments of ours at its beginning, in this order."""
    data = encoded(marked(), "JPEG")
    return data[:2] + b"".join(segments) + data[2:]


def exif_segment(kind: int, value: int) -> bytes:
    """EXIF with nothing but an orientation, stored as a number of this kind."""
    entry = struct.pack("<HHII", 0x0112, kind, 1, value)
    payload = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(exif_segment(3, 6)),
        jpeg_with(exif_segment(4, 6)),  # a long number where a short one belongs
        jpeg_with(exif_segment(3, 99)),
        jpeg_with(exif_segment(3, 1), exif_segment(3, 6)),
        jpeg_with(b"\xff\xe1\0\x0aExif\0\0??"),
        jpeg_with(b"\xff\xff\xff\xff", exif_segment(3, 8)),  # bytes between segments that mean nothing
        jpeg_with(b"\xff\xe1\0\x10http://ns.adob", exif_segment(3, 5)),
    ],
)
def test_the_head_of_a_photograph_and_its_pixels_agree_on_what_is_upright(data: bytes) -> None:
    assert images.probe(io.BytesIO(data)) == decoded(data).size


@pytest.mark.parametrize(("alpha", "expected"), [(0, (255, 255, 255)), (255, (200, 0, 0)), (128, (227, 127, 127))])
def test_transparency_is_laid_over_white(alpha: int, expected: tuple[int, int, int]) -> None:
    assert pixel(encoded(Image.new("RGBA", (2, 2), (200, 0, 0, alpha)))) == expected


def test_grey_with_alpha_is_laid_over_white() -> None:
    assert pixel(encoded(Image.new("LA", (2, 2), (10, 0)))) == (255, 255, 255)


def test_the_transparent_colour_of_a_palette_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = encoded(image, transparency=0)
    assert pixel(data) == (255, 255, 255)
    assert pixel(data, (1, 0)) == (40, 50, 60)


def test_a_large_transparent_image_is_the_same_as_its_parts() -> None:
    """Transparency is laid over white in strips; their edges must not show."""
    noise = np.random.default_rng(0).integers(0, 255, (2500, 2000, 4), dtype=np.uint8)
    whole = np.asarray(decoded(encoded(Image.fromarray(noise), "PNG", compress_level=0)))
    for rows in (slice(0, 10), slice(1995, 2005), slice(2490, 2500)):
        part = np.asarray(decoded(encoded(Image.fromarray(noise[rows]))))
        assert np.array_equal(whole[rows], part)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (25700, 100), (65535, 255)])
def test_16_bit_is_scaled_and_not_clipped(value: int, expected: int) -> None:
    data = encoded(Image.fromarray(np.full((2, 2), value, np.uint16)))
    assert pixel(data) == (expected,) * 3


def test_floating_point_is_scaled() -> None:
    data = encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF")
    assert [pixel(data, (x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def test_cmyk_becomes_rgb() -> None:
    red, green, blue = pixel(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red > 240 and max(green, blue) < 15


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    red, green, blue = pixel(encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=100))
    assert red > 240 and max(green, blue) < 15


def random_bytes() -> bytes:
    return np.random.default_rng(0).bytes(5000)


def truncated(format: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image of a kind that can be read"),
        (random_bytes(), "not an image of a kind that can be read"),
        (b"<svg></svg>", "not an image of a kind that can be read"),
        (truncated("JPEG"), "damaged .*truncated"),
        (truncated("PNG"), "damaged"),
        (truncated("WEBP"), "."),
    ],
)
def test_a_bad_file_is_named_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"^photos/a.jpg: it is .*{reason}"):
        images.decode(data, "photos/a.jpg")


def bomb() -> bytes:
    """A PNG of a hundred bytes that claims to have 2.5 gigapixels."""
    data = bytearray(encoded(Image.new("1", (1, 1))))
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def test_a_damaged_avif_is_named_too() -> None:
    """Its decoder raises errors of another kind than all others."""
    data = bytearray(encoded(marked(), "AVIF"))
    data[-40:] = bytes(40)
    with pytest.raises(images.Unreadable, match="^a.avif: it is "):
        images.decode(bytes(data), "a.avif")


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DataError, match="claims to have 50000x50000 pixels"):
        images.probe(io.BytesIO(bomb()))
    with pytest.raises(DataError, match="claims to have more than the 178,956,970 pixels"):
        images.decode(bomb(), "x")


def test_the_extension_of_a_file_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(marked()))
    with path.open("rb") as file:
        assert images.probe(file) == (24, 16)
    assert images.decode(path.read_bytes(), str(path)).size == (24, 16)


def test_applying_a_placement_is_one_resize_and_one_crop() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    found = images.apply(image, Placement(Size(32, 64), (0, 16), Size(32, 32)))
    expected = image.resize((32, 64), Image.Resampling.LANCZOS).crop((0, 16, 32, 48))
    assert np.array_equal(found, expected)


FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_every_interpolation_is_carried_out_in_one_resize(name: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 64, 3), dtype=np.uint8))
    rules = Rules(96, "pixel", alignment=16, crop=True, crop_style="corner", resize_interpolation=name)
    placement = place(Size(*image.size), rules)
    expected = image.resize(placement.resize, FILTERS[placement.interpolation]).crop((0, 0, 96, 96))
    assert np.array_equal(images.apply(image, placement), expected)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    assert np.array_equal(images.apply(image, Placement(Size(64, 64), (0, 0), Size(64, 64))), image)
