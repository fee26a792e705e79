"""The buckets of sd-scripts: the numbers that it gives itself, and what must hold for every image."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.geometry import Rules, place, refusal
from simpletuner.data.geometry.kohya import Limits, buckets, nearest, without_enlarging
from simpletuner.data.items import Chances, Size

WIDE = Limits(1024**2, 256, 2048, 64)

# Measured with sd-scripts, see the reference, appendix B.
COUNTS = [
    (Limits(1024**2, 256, 1024, 64), 25),
    (Limits(1024**2, 256, 2048, 64), 41),
    (Limits(1024**2, 512, 2048, 64), 33),
    (Limits(768**2, 256, 2048, 64), 41),
    (Limits(512**2, 256, 1024, 64), 17),
    (Limits(512**2, 256, 1024, 32), 33),
    (Limits(1024 * 768, 256, 1536, 64), 31),
]

ENLARGED = [
    ((1920, 1080), (1344, 768), (1365, 768)),
    ((1080, 1920), (768, 1344), (768, 1365)),
    ((800, 600), (1152, 896), (1195, 896)),
    ((3000, 1000), (1728, 576), (1728, 576)),
    ((500, 500), (1024, 1024), (1024, 1024)),
    ((200, 900), (448, 2048), (455, 2048)),
]

AS_THEY_ARE = [
    ((800, 600), (768, 576), (800, 600)),
    ((500, 500), (448, 448), (500, 500)),
    ((640, 480), (640, 448), (640, 480)),
    ((4000, 3000), (1088, 832), (1109, 832)),
    ((1001, 777), (960, 768), (1001, 777)),
    ((200, 900), (192, 896), (200, 900)),
    ((1920, 1080), (1344, 768), (1365, 768)),
]

Pair = tuple[int, int]


@pytest.mark.parametrize(("limits", "count"), COUNTS)
def test_there_are_as_many_buckets_as_in_sd_scripts(limits: Limits, count: int) -> None:
    assert len(buckets(limits)) == count


def test_the_buckets_of_half_a_megapixel_are_those_of_sd_scripts() -> None:
    tall = {(256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576)}
    wide = {(height, width) for width, height in tall}
    assert set(buckets(Limits(512**2, 256, 1024, 64))) == {*tall, *wide, (512, 512)}


@pytest.mark.parametrize(("size", "bucket", "resize"), ENLARGED)
def test_images_go_to_the_nearest_shape(size: Pair, bucket: Pair, resize: Pair) -> None:
    assert nearest(Size(*size), WIDE) == (bucket, resize)


@pytest.mark.parametrize(("size", "bucket", "resize"), AS_THEY_ARE)
def test_images_may_make_buckets_of_their_own_size(size: Pair, bucket: Pair, resize: Pair) -> None:
    assert without_enlarging(Size(*size), WIDE) == (bucket, resize)


def test_a_smaller_step_gives_a_nearer_bucket() -> None:
    fit = without_enlarging(Size(4000, 3000), WIDE._replace(step=32))
    assert fit is not None and fit.bucket == (1152, 864)


def test_a_data_set_in_this_mode_is_placed_by_these_buckets() -> None:
    rules = Rules(1024, bucket_mode="kohya", max_bucket_reso=2048, crop_style="center")
    found = place(Size(1920, 1080), rules)
    assert (found.bucket, found.resize, found.crop) == ((1344, 768), (1365, 768), (10, 0))
    kept = place(Size(800, 600), Rules(**{**vars(rules), "bucket_no_upscale": True}))
    assert (kept.bucket, kept.resize, kept.crop) == ((768, 576), (800, 600), (16, 12))


def test_a_crop_is_drawn_where_that_is_asked_for() -> None:
    rules = Rules(1024, bucket_mode="kohya", max_bucket_reso=2048, crop_style="random")
    assert place(Size(1920, 1080), rules, chances=Chances(left=0.99)).crop == (21, 0)


@pytest.mark.parametrize("size", [Size(70, 50), Size(40_000, 100)])
def test_images_thinner_than_a_step_are_left_out_when_they_must_not_be_enlarged(size: Size) -> None:
    rules = Rules(1024, bucket_mode="kohya", bucket_no_upscale=True)
    assert without_enlarging(size, WIDE) is None
    assert refusal(size, rules) == "thinner than bucket_reso_steps (64 px)"
    assert refusal(size, Rules(1024, bucket_mode="kohya")) is None


sizes = st.builds(Size, st.integers(1, 6000), st.integers(1, 6000))
limits = st.builds(
    Limits, st.integers(256**2, 1536**2), st.integers(64, 256), st.integers(1536, 2048), st.sampled_from([32, 64])
)


@given(sizes, limits)
def test_no_bucket_is_nearer_than_the_one_that_is_taken(size: Size, limits: Limits) -> None:
    bucket = nearest(size, limits).bucket
    aspect = size.width / size.height
    if bucket != size:
        by_difference = sorted(buckets(limits), key=lambda one: abs(one.width / one.height - aspect))
        assert bucket == by_difference[0]  # sorting is stable, so of equal ones this is the first, as in sd-scripts


@given(sizes, limits)
def test_no_image_is_enlarged_or_larger_than_wanted_when_images_keep_their_size(size: Size, limits: Limits) -> None:
    fit = without_enlarging(size, limits)
    if fit is not None:
        assert fit.resize.width <= size.width and fit.resize.height <= size.height
        assert fit.bucket.width * fit.bucket.height <= limits.area * 1.04  # half a pixel is rounded up to a step


@pytest.mark.parametrize("bucket", buckets(WIDE))
def test_an_image_with_the_size_of_a_bucket_is_left_as_it_is(bucket: Size) -> None:
    assert nearest(bucket, WIDE) == (bucket, bucket)
