"""Sizes, buckets and crops: what SimpleTuner computes, and what must hold for every image."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.geometry import CROP_STYLES, Rules, place, refusal
from simpletuner.data.items import Size

# Measured with SimpleTuner 4.8.0, see the reference, section 4.1. Its crops are (top, left), ours are (left, top).
MEASURED = [
    (Rules(1024), (1024, 1024), (1024, 1024), (1024, 1024), (0, 0)),
    (Rules(1024), (1500, 1000), (1280, 832), (1280, 853), (0, 10)),
    (Rules(1024), (1000, 1500), (832, 1280), (853, 1280), (10, 0)),
    (Rules(1024), (1920, 1080), (1344, 768), (1365, 768), (10, 0)),
    (Rules(1024), (800, 600), (1152, 896), (1194, 896), (21, 0)),
    (Rules(1024), (640, 1600), (640, 1600), (640, 1600), (0, 0)),
    (Rules(0.5, "area"), (1500, 1000), (832, 576), (864, 576), (16, 0)),
    (Rules(0.5, "area"), (1000, 1000), (768, 768), (768, 768), (0, 0)),
    (Rules(512, "pixel"), (1500, 1000), (768, 512), (768, 512), (0, 0)),
    (Rules(512, "pixel"), (700, 500), (704, 512), (716, 512), (6, 0)),
    (Rules(512, "pixel"), (1000, 1000), (512, 512), (512, 512), (0, 0)),
    (Rules(512, crop=True, crop_aspect="square"), (1500, 1000), (512, 512), (768, 512), (128, 0)),
    (Rules(1024, crop=True, crop_aspect="preserve"), (1920, 1080), (1344, 768), (1365, 768), (10, 0)),
]


@pytest.mark.parametrize(("rules", "size", "bucket", "resize", "crop"), MEASURED)
def test_placements_are_those_of_simpletuner(
    rules: Rules, size: tuple[int, int], bucket: tuple[int, int], resize: tuple[int, int], crop: tuple[int, int]
) -> None:
    found = place(Size(*size), Rules(**{**vars(rules), "crop_style": "center"}))
    assert (found.bucket, found.resize, found.crop) == (bucket, resize, crop)


@pytest.mark.parametrize(("area", "edge"), [(0.25, 512), (0.5, 768), (1.0, 1024), (2.0, 1536), (4.0, 2048)])
def test_squares_of_well_known_areas_have_well_known_edges(area: float, edge: int) -> None:
    assert place(Size(900, 900), Rules(area, "area")).bucket == (edge, edge)


sizes = st.builds(Size, st.integers(1, 6000), st.integers(1, 6000))
shares = st.floats(0, 1, exclude_max=True)
rules = st.one_of(
    st.builds(
        Rules,
        resolution=resolution,
        resolution_type=st.just(kind),
        crop=st.booleans(),
        crop_aspect=st.sampled_from(["square", "preserve"]),
        crop_style=st.sampled_from(sorted(CROP_STYLES)),
        maximum_image_size=st.none() | resolution,
        target_downsample_size=st.none() | resolution,
        aspect_bucket_rounding=st.integers(1, 9),
    )
    for kind, resolution in {
        "pixel": st.floats(16, 2048),
        "area": st.floats(0.02, 4),
        "pixel_area": st.floats(64, 2048),
    }.items()
)


@given(sizes, rules, shares, shares)
def test_every_crop_lies_inside_the_resized_image_and_fills_an_aligned_bucket(
    size: Size, rules: Rules, left: float, top: float
) -> None:
    found = place(size, rules, draw=(left, top))
    assert found.bucket.width % 64 == found.bucket.height % 64 == 0
    assert min(found.bucket) >= 64
    assert 0 <= found.crop[0] <= found.resize.width - found.bucket.width
    assert 0 <= found.crop[1] <= found.resize.height - found.bucket.height


@given(sizes, rules)
def test_resizing_keeps_the_shape_to_within_a_pixel(size: Size, rules: Rules) -> None:
    resize = place(size, rules).resize
    error = abs(resize.width * size.height - resize.height * size.width)
    assert error <= max(size)


@given(st.integers(500, 990), st.integers(1010, 2000), st.floats(256, 2048))
def test_the_area_of_a_bucket_is_near_the_wanted_one(width: int, height: int, edge: float) -> None:
    bucket = place(Size(width, height), Rules(edge)).bucket
    assert abs(sqrt(bucket.width * bucket.height) - edge) < 80


@given(st.integers(1, 6000), rules)
def test_a_square_image_goes_to_a_square_bucket(edge: int, rules: Rules) -> None:
    bucket = place(Size(edge, edge), rules).bucket
    assert bucket.width == bucket.height


@pytest.mark.parametrize(("draw", "crop"), [((0.0, 0.0), (0, 0)), ((0.999999, 0.5), (256, 0)), ((0.5, 0.9), (128, 0))])
def test_a_random_crop_reaches_both_ends(draw: tuple[float, float], crop: tuple[int, int]) -> None:
    rules = Rules(512, crop=True, crop_style="random")
    assert place(Size(1536, 1024), rules, draw=draw).crop == crop


@pytest.mark.parametrize(("style", "crop"), [("center", (128, 0)), ("centre", (128, 0)), ("corner", (0, 0))])
def test_a_fixed_crop_ignores_the_draw(style: str, crop: tuple[int, int]) -> None:
    rules = Rules(512, crop=True, crop_style=style)
    assert place(Size(1536, 1024), rules, draw=(0.9, 0.9)).crop == crop


def test_an_oversized_image_is_shrunk_to_the_downsample_size_before_it_is_cropped() -> None:
    rules = Rules(
        512,
        crop=True,
        crop_style="corner",
        maximum_image_size=1024,
        target_downsample_size=768,
        resolution_type="pixel",
    )
    assert place(Size(4000, 3000), rules).resize == (1024, 768)
    assert place(Size(1000, 1000), rules).resize == (512, 512)


@pytest.mark.parametrize(
    ("rules", "size", "reason"),
    [
        (Rules(minimum_image_size=512), (512, 511), "smaller than minimum_image_size (512 px)"),
        (Rules(minimum_image_size=512), (1024, 256), None),
        (Rules(minimum_image_size=512, crop=True), (1024, 256), "smaller than minimum_image_size (512 px)"),
        (
            Rules(minimum_image_size=512, resolution_type="pixel"),
            (1024, 256),
            "smaller than minimum_image_size (512 px)",
        ),
        (
            Rules(minimum_image_size=0.5, resolution_type="area"),
            (800, 600),
            "smaller than minimum_image_size (0.5 megapixels)",
        ),
        (Rules(minimum_image_size=0), (1, 1), None),
        (Rules(minimum_aspect_ratio=0.5), (49, 100), "narrower than minimum_aspect_ratio (0.5)"),
        (Rules(maximum_aspect_ratio=2), (201, 100), "wider than maximum_aspect_ratio (2)"),
        (Rules(minimum_aspect_ratio=0.5, maximum_aspect_ratio=2), (200, 100), None),
    ],
)
def test_unwanted_sizes_are_refused_with_the_option_that_refuses_them(
    rules: Rules, size: tuple[int, int], reason: str | None
) -> None:
    assert refusal(Size(*size), rules) == reason
