"""What a mask means, and that it lies exactly over its image."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simpletuner.data import images, masks
from simpletuner.data.geometry import Rules, place
from simpletuner.data.items import Chances, Placement, Size
from simpletuner.errors import DataError

WHOLE = Placement(Size(64, 64), (0, 0), Size(64, 64))


def encoded(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def read(picture: Image.Image, *, kind: str = "mask", placement: Placement = WHOLE, size: Size | None = None):
    return masks.read(
        encoded(picture),
        "masks/a.png",
        kind=kind,
        image="photos/a.jpg",
        size=size or Size(*picture.size),
        placement=placement,
    )


def halves(left: object, right: object, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A picture with two colours side by side."""
    picture = Image.new(mode, size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def columns(weights: np.ndarray) -> tuple[float, float]:
    """What is far left and far right."""
    assert weights.dtype == np.float32
    assert weights.min() >= 0 and weights.max() <= 1
    return round(float(weights[:, :8].mean()), 3), round(float(weights[:, -8:].mean()), 3)


def test_bright_parts_of_a_mask_are_learned_and_dark_parts_are_not() -> None:
    assert columns(read(halves(0, 255, "L"))) == (0, 1)
    assert columns(read(halves(51, 204, "L"))) == (0.2, 0.8)


def test_only_the_red_of_a_coloured_mask_counts() -> None:
    assert columns(read(halves((255, 0, 0), (0, 255, 255)))) == (1, 0)


def test_whatever_is_not_black_in_a_segmentation_is_learned() -> None:
    assert columns(read(halves("black", (0, 0, 9)), kind="segmentation")) == (0, 1)
    assert set(np.unique(read(halves("black", "purple"), kind="segmentation"))) == {0.0, 1.0}


@pytest.mark.parametrize("kind", ["mask", "segmentation"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "LA"])
def test_a_mask_may_be_any_kind_of_picture(mode: str, kind: str) -> None:
    grey = halves(0, 255, "L")
    picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    assert columns(read(picture, kind=kind)) == (0, 1)


@pytest.mark.parametrize("kind", ["mask", "segmentation"])
@pytest.mark.parametrize("hidden", [(0, 0, 0, 0), (255, 255, 255, 0)])
def test_transparent_parts_of_a_mask_are_not_learned(kind: str, hidden: tuple[int, int, int, int]) -> None:
    assert columns(read(halves(hidden, (255, 255, 255, 255), "RGBA"), kind=kind)) == (0, 1)


def test_a_mask_is_as_large_as_the_bucket_of_its_image() -> None:
    placement = Placement(Size(300, 200), (10, 20), Size(256, 128))
    assert read(halves(0, 255, "L", (600, 400)), placement=placement).shape == (128, 256)


def test_a_mask_of_another_resolution_lies_over_the_same_part_of_the_image() -> None:
    placement = Placement(Size(128, 64), (32, 0), Size(64, 64))
    weights = read(halves(0, 255, "L", (256, 128)), placement=placement, size=Size(1024, 512))
    assert columns(weights) == (0, 1)
    assert abs(float(weights.mean()) - 0.5) < 0.01


@settings(max_examples=40, deadline=None)
@given(
    st.builds(Size, st.integers(70, 400), st.integers(70, 400)),
    st.sampled_from(["center", "corner", "random"]),
    st.sampled_from(["square", "preserve"]),
    st.builds(Chances, *[st.floats(0, 1, exclude_max=True)] * 3),
)
def test_a_mask_is_cropped_exactly_as_its_image(size: Size, style: str, aspect: str, chances: Chances) -> None:
    rules = Rules(resolution=128, crop=True, crop_style=style, crop_aspect=aspect, resize_interpolation="bilinear")
    placement = place(size, rules, chances=chances)
    across = np.linspace(0, 255, size.width, dtype=np.float32)
    down = np.linspace(0, 255, size.height, dtype=np.float32)[:, None]
    picture = Image.fromarray(((across + down) / 2).astype(np.uint8))
    expected = np.asarray(images.apply(picture.convert("RGB"), placement))[:, :, 0] / 255
    assert np.array_equal(read(picture, placement=placement), expected.astype(np.float32))


@pytest.mark.parametrize("kind", ["mask", "segmentation"])
def test_resizing_leaves_no_bright_or_dark_rims_around_shapes(kind: str) -> None:
    picture = halves(0, 255, "L", (400, 400))
    for edge in (64, 1024):
        weights = read(picture, kind=kind, placement=Placement(Size(edge, edge), (0, 0), Size(edge, edge)))
        far = edge // 20
        assert not weights[:, : edge // 2 - far].any()
        assert (weights[:, edge // 2 + far :] == 1).all()


def test_a_mask_of_another_shape_is_refused_with_the_names_of_both_files() -> None:
    with pytest.raises(DataError) as caught:
        read(Image.new("L", (64, 64)), size=Size(640, 480))
    assert str(caught.value) == (
        "masks/a.png (64x64) does not fit photos/a.jpg (640x480): they differ in shape, so one cannot lie over the "
        "other. Cut one of them to the shape of the other, or take both out."
    )


def test_a_damaged_mask_is_named() -> None:
    with pytest.raises(DataError, match=r"masks/a\.png: it is not an image"):
        masks.read(b"nothing", "masks/a.png", kind="mask", image="a.jpg", size=Size(64, 64), placement=WHOLE)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_mask_is_turned_as_its_exif_orientation_says(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = halves(0, 255, "L").rotate(90)
    data = encoded(turned.convert("RGB"), format, exif=exif)
    weights = masks.read(data, "a", kind="mask", image="b", size=Size(64, 64), placement=WHOLE)
    assert weights[:, :8].mean() < 0.02
    assert weights[:, -8:].mean() > 0.98


def test_an_image_can_be_its_own_mask_by_being_transparent() -> None:
    picture = halves((200, 10, 10, 0), (10, 200, 10, 255), "RGBA")
    assert columns(masks.read_opacity(encoded(picture), "a.png", WHOLE)) == (0, 1)
    assert masks.read_opacity(encoded(picture.convert("RGB")), "a.png", WHOLE).min() == 1


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_the_transparency_of_a_turned_image_is_turned_too(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = halves((255, 255, 255, 0), (255, 255, 255, 255), "RGBA", (96, 64)).rotate(90, expand=True)
    data = encoded(picture, format, exif=exif)
    size = Size(96, 64)
    placement = Placement(size, (0, 0), size)
    assert columns(masks.read_opacity(data, "a.png", placement)) == (0, 1)
    assert columns(masks.read(data, "a", kind="mask", image="b", size=size, placement=placement)) == (0, 1)


def test_what_a_png_says_behind_its_pixels_turns_neither_a_mask_nor_its_transparency() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = halves((255, 255, 255, 0), (255, 255, 255, 255), "RGBA", (96, 64))
    whole = encoded(picture, exif=exif)
    start = whole.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(whole[start : start + 4], "big")
    last = whole.rindex(b"IEND") - 4
    late = whole[:start] + whole[end:last] + whole[start:end] + whole[last:]
    size = Size(96, 64)
    weights = masks.read(late, "a", kind="mask", image="b", size=size, placement=Placement(size, (0, 0), size))
    assert columns(weights) == (0, 1)
