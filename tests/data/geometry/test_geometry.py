"""Sizes, buckets and crops: what SimpleTuner computes, and what must hold for every image."""

from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.geometry import CROP_ASPECTS, CROP_STYLES, INTERPOLATIONS, Rules, conflicts, place, refusal
from simpletuner.data.items import Box, Chances, Size

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


SHAPES = ((0.5, 0.25), (1.0, 0.25), (1.5, 0.5))

sizes = st.builds(Size, st.integers(1, 6000), st.integers(1, 6000))
shares = st.floats(0, 1, exclude_max=True)
chances = st.builds(Chances, shares, shares, shares)
shape_rules = st.one_of(
    st.builds(
        Rules,
        resolution=resolution,
        resolution_type=st.just(kind),
        crop=st.booleans(),
        crop_aspect=st.sampled_from(sorted(CROP_ASPECTS)),
        crop_aspect_buckets=st.just(SHAPES),
        crop_style=st.sampled_from(sorted(CROP_STYLES)),
        maximum_image_size=st.none() | resolution,
        target_downsample_size=st.none() | resolution,
        max_upscale_threshold=st.none() | st.floats(0, 3),
        aspect_bucket_rounding=st.integers(1, 9),
        resize_interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
    )
    for kind, resolution in {
        "pixel": st.floats(16, 2048),
        "area": st.floats(0.02, 4),
        "pixel_area": st.floats(64, 2048),
    }.items()
)
kohya_rules = st.builds(
    Rules,
    resolution=st.integers(256, 1024),
    bucket_mode=st.just("kohya"),
    crop_style=st.sampled_from(sorted(CROP_STYLES)),
    min_bucket_reso=st.integers(64, 256),
    max_bucket_reso=st.integers(1024, 2048),
    bucket_reso_steps=st.sampled_from([32, 64, 128]),
    bucket_no_upscale=st.booleans(),
    maximum_image_size=st.none() | st.integers(256, 2048),
    target_downsample_size=st.none() | st.integers(256, 2048),
)
rules = shape_rules | kohya_rules


@given(sizes, rules, chances)
def test_every_crop_lies_inside_the_resized_image_and_fills_an_aligned_bucket(
    size: Size, rules: Rules, chances: Chances
) -> None:
    found = place(size, rules, chances=chances)
    step = rules.bucket_reso_steps if rules.bucket_mode == "kohya" else 64
    assert found.bucket.width % step == found.bucket.height % step == 0
    assert min(found.bucket) >= step
    assert 0 <= found.crop[0] <= found.resize.width - found.bucket.width
    assert 0 <= found.crop[1] <= found.resize.height - found.bucket.height


@given(sizes, rules)
def test_resizing_keeps_the_shape_to_within_a_pixel(size: Size, rules: Rules) -> None:
    resize = place(size, rules).resize
    error = abs(resize.width * size.height - resize.height * size.width)
    assert error <= max(size)


@given(sizes, rules, chances, chances)
def test_only_what_is_drawn_depends_on_chance(size: Size, rules: Rules, one: Chances, other: Chances) -> None:
    first, second = place(size, rules, chances=one), place(size, rules, chances=other)
    if not rules.draws_bucket:
        assert (first.bucket, first.resize) == (second.bucket, second.resize)
        assert rules.draws_crop or first == second


@given(sizes, rules)
def test_what_is_used_is_never_resized_to_more_than_fits_into_memory(size: Size, rules: Rules) -> None:
    resize = place(size, rules).resize
    assert refusal(size, rules) or resize.width * resize.height <= 178_956_970


@given(st.integers(500, 990), st.integers(1010, 2000), st.floats(256, 2048))
def test_the_area_of_a_bucket_is_near_the_wanted_one(width: int, height: int, edge: float) -> None:
    bucket = place(Size(width, height), Rules(edge)).bucket
    assert abs(sqrt(bucket.width * bucket.height) - edge) < 80


@given(st.integers(1, 6000), st.builds(Rules, resolution=st.floats(64, 2048)) | kohya_rules)
def test_a_square_image_goes_to_a_square_bucket(edge: int, rules: Rules) -> None:
    bucket = place(Size(edge, edge), rules).bucket
    assert bucket.width == bucket.height


@pytest.mark.parametrize(("left", "top", "crop"), [(0.0, 0.0, (0, 0)), (0.999999, 0.5, (256, 0)), (0.5, 0.9, (128, 0))])
def test_a_random_crop_reaches_both_ends(left: float, top: float, crop: tuple[int, int]) -> None:
    rules = Rules(512, crop=True, crop_style="random")
    assert place(Size(1536, 1024), rules, chances=Chances(left, top)).crop == crop


@pytest.mark.parametrize(("style", "crop"), [("center", (128, 0)), ("centre", (128, 0)), ("corner", (0, 0))])
def test_a_fixed_crop_ignores_chance(style: str, crop: tuple[int, int]) -> None:
    rules = Rules(512, crop=True, crop_style=style)
    assert place(Size(1536, 1024), rules, chances=Chances(0.9, 0.9, 0.9)).crop == crop


FACES = [
    (Box(500, 300, 200, 200), (44, 0)),
    (Box(0, 0, 100, 100), (0, 0)),
    (Box(1436, 900, 100, 100), (256, 0)),
    (None, (128, 0)),
]


@pytest.mark.parametrize(("face", "crop"), FACES)
def test_a_crop_has_the_face_in_its_middle_as_far_as_the_image_goes(face: Box | None, crop: tuple[int, int]) -> None:
    rules = Rules(512, crop=True, crop_style="face")
    assert rules.wants_faces and not rules.draws_crop
    assert place(Size(1536, 1024), rules, face=face).crop == crop


@given(sizes, rules, st.builds(Box, *[st.integers(0, 3000)] * 2, *[st.integers(1, 3000)] * 2))
def test_a_crop_around_a_face_lies_inside_the_image_wherever_the_face_is(size: Size, rules: Rules, face: Box) -> None:
    found = place(size, Rules(**{**vars(rules), "crop_style": "face"}), face=face)
    assert 0 <= found.crop[0] <= found.resize.width - found.bucket.width
    assert 0 <= found.crop[1] <= found.resize.height - found.bucket.height


def shaped(aspect: str, **more: object) -> Rules:
    return Rules(512, crop=True, crop_aspect=aspect, crop_aspect_buckets=SHAPES, crop_style="center", **more)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        (Size(300, 900), (384, 704)),
        (Size(1000, 1240), (512, 512)),
        (Size(1240, 1000), (512, 512)),
        (Size(4000, 1000), (640, 448)),
    ],
)
def test_closest_takes_the_nearest_of_the_given_shapes(size: Size, bucket: tuple[int, int]) -> None:
    assert place(size, shaped("closest"), chances=Chances(0.9, 0.9, 0.9)).bucket == bucket


def test_random_draws_each_shape_as_often_as_its_weight_says() -> None:
    rules = shaped("random")
    assert rules.draws_bucket
    buckets = Counter(place(Size(900, 900), rules, chances=Chances(aspect=n / 1000)).bucket for n in range(1000))
    assert buckets == {(384, 704): 250, (512, 512): 250, (640, 448): 500}


def test_shapes_that_would_enlarge_an_image_too_much_are_not_taken() -> None:
    size = Size(400, 1600)  # covers 384x704 as it is, but 640x448 only when it is enlarged by 60 percent
    assert place(size, shaped("random"), chances=Chances(aspect=0.9)).bucket == (640, 448)
    rules = shaped("random", max_upscale_threshold=0.1)
    assert {place(size, rules, chances=Chances(aspect=n / 10)).bucket for n in range(10)} == {(384, 704)}
    assert refusal(size, rules) is None
    assert refusal(Size(100, 100), rules) == "too small for max_upscale_threshold (0.1)"


@pytest.mark.parametrize(
    ("size", "threshold", "is_used"),
    [
        (Size(512, 512), 0.0, True),
        (Size(511, 512), 0.0, False),
        (Size(427, 427), 0.2, True),
        (Size(426, 426), 0.2, False),
        (Size(10, 10), None, True),
    ],
)
def test_images_that_would_be_enlarged_too_much_are_left_out(
    size: Size, threshold: float | None, *, is_used: bool
) -> None:
    rules = Rules(512, crop=True, max_upscale_threshold=threshold)
    assert (refusal(size, rules) is None) == is_used


def test_a_strip_that_would_need_gigabytes_is_left_out() -> None:
    reason = "so thin that covering a bucket would take more than 178,956,970 pixels"
    assert refusal(Size(6000, 1), Rules(1024, crop=True)) == reason


@pytest.mark.parametrize(
    ("wanted", "size", "name"),
    [
        ("lanczos", Size(100, 100), "lanczos"),
        ("cubic", Size(100, 100), "bicubic"),
        ("linear", Size(900, 900), "bilinear"),
        ("box", Size(900, 900), "area"),
        ("nearest", Size(900, 900), "nearest"),
        ("auto", Size(900, 900), "area"),
        ("auto", Size(100, 100), "lanczos"),
    ],
)
def test_a_placement_names_the_one_interpolation_that_is_used(wanted: str, size: Size, name: str) -> None:
    assert place(size, Rules(512, resize_interpolation=wanted)).interpolation == name


CONTRADICTIONS = [
    (Rules(), []),
    (Rules(crop=True, crop_aspect="closest"), ["crop_aspect_buckets"]),
    (Rules(crop=True, crop_aspect="random"), ["crop_aspect_buckets"]),
    (Rules(crop=False, crop_aspect="random"), []),
    (Rules(crop=True, crop_aspect="random", crop_aspect_buckets=SHAPES), []),
    (Rules(min_bucket_reso=512, bucket_no_upscale=True), ["min_bucket_reso", "bucket_no_upscale"]),
    (Rules(bucket_mode="kohya"), []),
    (Rules(bucket_mode="kohya", bucket_reso_steps=48), ["bucket_reso_steps"]),
    (Rules(bucket_mode="kohya", min_bucket_reso=1024, max_bucket_reso=512), ["min_bucket_reso"]),
    (Rules(512, bucket_mode="kohya", min_bucket_reso=640), ["min_bucket_reso"]),
    (Rules(1536, bucket_mode="kohya"), ["max_bucket_reso"]),
    (Rules(1536, bucket_mode="kohya", bucket_no_upscale=True), []),
    (Rules(1, "area", bucket_mode="kohya"), []),
    (Rules(bucket_mode="kohya", resolution_type="pixel"), ["resolution_type"]),
    (Rules(bucket_mode="kohya", crop=True), ["crop"]),
    (Rules(bucket_mode="kohya", crop=True, crop_aspect="preserve"), []),
]


@pytest.mark.parametrize(("rules", "options"), CONTRADICTIONS)
def test_options_that_contradict_each_other_are_named(rules: Rules, options: list[str]) -> None:
    assert [option for option, _ in conflicts(rules)] == options


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
    assert place(Size(1100, 700), rules).resize == (1100, 700)  # a smaller one stays as it is, not enlarged to 768


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
