"""What each generator makes: pictures of the right size, always the same, with what its settings ask for."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pydantic import ValidationError

from simpletuner.data.generators import (
    GENERATORS,
    Canny,
    Generator,
    JpegArtifacts,
    RandomMasks,
    SuperResolution,
)
from simpletuner.data.generators.dice import PictureDice
from simpletuner.data.generators.random_masks import MASK_TYPES
from simpletuner.data.images import Unreadable

BLUR_ONLY = SuperResolution(add_noise=False)


def scene(size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A drawing with smooth colours, edges and fine stripes."""
    width, height = size
    across, down = np.linspace(40, 220, width), np.linspace(200, 30, height)
    picture = Image.fromarray(
        np.stack(np.broadcast_arrays(across[None], down[:, None], 128.0), axis=2).astype(np.uint8)
    )
    pen = ImageDraw.Draw(picture)
    pen.ellipse((width // 5, height // 5, width // 2, height // 2), fill="white", outline="black")
    for x in range(width // 2, width, 4):
        pen.line((x, height // 2, x, height), fill="black")
    return picture


def grey(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), dtype=np.float32)


def detail(picture: Image.Image) -> float:
    """How much neighbours differ."""
    return float(np.abs(np.diff(grey(picture), axis=1)).mean())


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(grey(one) - grey(other)).mean())


EVERY = {
    **{name: {} for name in GENERATORS},
    "lowres": {"downscale_factor": 3.5, "jpeg_quality": 30, "blur_type": "both"},
    "jpeg": {"quality_mode": "range", "add_noise": True, "pre_blur": True, "enhance_blocks": True},
    "masks": {"output_mode": "masked_image", "edge_blur": 3, "invert_mask": True},
}


def made(name: str, **options: Any) -> Generator:
    return GENERATORS[name].model_validate(options)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [(120, 90), (61, 203), (7, 5), (1, 1), (300, 2)])
def test_every_picture_has_the_size_of_its_image(name: str, size: tuple[int, int]) -> None:
    picture = made(name, **EVERY[name]).picture(scene(size) if min(size) > 20 else Image.new("RGB", size), "a.jpg")
    assert (picture.size, picture.mode) == (size, "RGB")


@pytest.mark.parametrize("name", EVERY)
def test_the_same_image_always_makes_the_same_picture_and_is_left_as_it_is(name: str) -> None:
    generator, image = made(name, **EVERY[name]), scene()
    first = generator.picture(image, "a.jpg")
    assert image == scene()
    assert first == made(name, **EVERY[name]).picture(scene(), "a.jpg")
    assert (first == generator.picture(image, "b.jpg")) == (not generator.draws)


def test_other_names_of_a_generator_make_the_same_pictures() -> None:
    for name, section in GENERATORS.items():
        assert made(name).recipe == made(section.name).recipe
        assert section is GENERATORS[section.name]


def test_every_setting_changes_the_recipe() -> None:
    recipes = [SuperResolution(), SuperResolution(blur_radius=3), SuperResolution(add_noise=False), JpegArtifacts()]
    assert len({generator.recipe for generator in recipes}) == len(recipes)
    assert SuperResolution(blur_radius=2.0).recipe == SuperResolution().recipe


def test_blur_takes_detail_away_and_more_blur_takes_more() -> None:
    found = [detail(BLUR_ONLY.model_copy(update={"blur_radius": r}).picture(scene(), "a")) for r in (0, 1, 2, 6)]
    assert found == sorted(found, reverse=True)
    assert found[0] == detail(scene()) > 2 * found[2]


@pytest.mark.parametrize("kind", ["gaussian", "box", "both"])
def test_every_blur_keeps_the_brightness(kind: str) -> None:
    picture = SuperResolution(add_noise=False, blur_type=kind).picture(scene(), "a")
    assert detail(picture) < detail(scene()) / 2
    assert abs(grey(picture).mean() - grey(scene()).mean()) < 2


def test_shrinking_leaves_only_coarse_detail() -> None:
    picture = SuperResolution(blur_radius=0, add_noise=False, downscale_factor=8).picture(scene(), "a")
    assert detail(picture) < detail(scene()) / 3


def test_noise_is_as_strong_as_asked_for_and_even() -> None:
    flat = Image.new("RGB", (200, 300), (128, 128, 128))
    pixels = np.asarray(SuperResolution(blur_radius=0, noise_level=0.05).picture(flat, "a"), dtype=np.float64)
    assert abs(pixels.std() / 255 - 0.05) < 0.002
    assert abs(pixels.mean() - 128) < 0.2
    assert abs(np.corrcoef(pixels[:, :, 0].ravel(), pixels[:, :, 1].ravel())[0, 1]) < 0.02


def test_lower_quality_does_more_damage() -> None:
    damage = [difference(JpegArtifacts(quality=q).picture(scene(), "a"), scene()) for q in (90, 50, 25, 5)]
    assert damage == sorted(damage)
    assert damage[-1] > 3 * damage[0]


def test_each_round_of_compression_adds_damage() -> None:
    one, many = (JpegArtifacts(quality=30, compression_rounds=n, round_quality_decay=0.5) for n in (1, 4))
    assert difference(many.picture(scene(), "a"), scene()) > difference(one.picture(scene(), "a"), scene())


def test_colours_suffer_from_subsampling() -> None:
    stripes = Image.fromarray(np.tile(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8), (32, 16, 1)))
    full, half = (JpegArtifacts(quality=95, subsampling=s).picture(stripes, "a") for s in ("4:4:4", "4:2:0"))
    assert np.asarray(full, float).std(axis=1).mean() > 2 * np.asarray(half, float).std(axis=1).mean()


def test_the_quality_of_an_image_is_drawn_from_the_range_or_the_list() -> None:
    def pictures(generator: JpegArtifacts) -> set[bytes]:
        return {generator.picture(scene(), f"{n}.jpg").tobytes() for n in range(40)}

    wanted = {JpegArtifacts(quality=q).picture(scene(), "a").tobytes() for q in (10, 20)}
    assert pictures(JpegArtifacts(quality_mode="random", quality_list=(10, 20))) == wanted
    ranged = {JpegArtifacts(quality=q).picture(scene(), "a").tobytes() for q in range(10, 14)}
    assert pictures(JpegArtifacts(quality_mode="range", quality_range=(10, 13))) == ranged


def test_squares_become_easier_to_see() -> None:
    def steps(generator: JpegArtifacts) -> float:
        found = np.abs(np.diff(grey(generator.picture(scene((128, 96)), "a")), axis=1)).mean(axis=0)
        return float(found[7::8].mean() / found.mean())

    assert steps(JpegArtifacts(enhance_blocks=True)) > steps(JpegArtifacts())


def test_an_image_too_long_for_jpeg_is_refused_with_the_reason() -> None:
    with pytest.raises(Unreadable, match="JPEG holds no image with an edge of more than 65,500 pixels"):
        JpegArtifacts().picture(Image.new("RGB", (65_501, 1)), "a")


def test_edges_are_white_on_black_and_lie_where_the_image_has_them() -> None:
    pytest.importorskip("cv2")
    image = Image.new("RGB", (64, 64), "black")
    image.paste("white", (32, 0, 64, 64))
    edges = np.asarray(Canny().picture(image, "a"))
    assert set(np.unique(edges)) == {0, 255}
    assert set(np.flatnonzero(edges[:, :, 0].any(axis=0)).tolist()) <= {30, 31, 32, 33}
    assert edges.any()


def test_higher_thresholds_find_fewer_edges() -> None:
    pytest.importorskip("cv2")
    found = [
        grey(Canny(low_threshold=low, high_threshold=2 * low).picture(scene(), "a")).sum() for low in (0, 50, 300, 2000)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[2] > found[3] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*([name] for name in MASK_TYPES), list(MASK_TYPES)]),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.tuples(st.integers(1, 12), st.integers(1, 12)).map(sorted),
    st.sampled_from([(256, 256), (400, 150), (90, 500)]),
    st.integers(0, 10**6),
)
def test_shapes_cover_as_much_of_the_image_as_asked_for(
    kinds: list[str], coverage: list[float], count: list[int], size: tuple[int, int], seed: int
) -> None:
    generator = RandomMasks(
        mask_types=kinds,
        min_coverage=coverage[0],
        max_coverage=coverage[1],
        min_masks=count[0],
        max_masks=count[1],
    )
    covered = float((np.asarray(generator.mask(size, PictureDice(seed))) > 0).mean())
    assert coverage[0] - 0.03 <= covered <= coverage[1] + 0.03


def test_a_mask_is_the_same_shape_in_every_resolution() -> None:
    for seed in range(10):
        small, large = (RandomMasks().mask(size, PictureDice(seed)) for size in ((400, 300), (1600, 1200)))
        assert difference(large.resize((400, 300)), small) < 5


def test_inverting_a_mask_swaps_black_and_white() -> None:
    plain, inverted = (grey(RandomMasks(invert_mask=on).picture(scene(), "a")) for on in (False, True))
    assert np.array_equal(plain + inverted, np.full_like(plain, 255))


def test_a_masked_image_is_black_where_the_mask_is_white() -> None:
    mask = grey(RandomMasks().picture(scene(), "a")) > 0
    masked = np.asarray(RandomMasks(output_mode="masked_image").picture(scene(), "a"))
    assert not masked[mask].any()
    assert np.array_equal(masked[~mask], np.asarray(scene())[~mask])


def test_blurred_edges_have_shades_of_grey() -> None:
    shades = {blur: len(np.unique(grey(RandomMasks(edge_blur=blur).picture(scene(), "a")))) for blur in (0, 4)}
    assert shades[0] == 2
    assert shades[4] > 20


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (JpegArtifacts, {"quality_range": [50, 10]}, "50 is more than 10; write the lower quality first"),
        (JpegArtifacts, {"quality_list": [5]}, "is for quality_mode random; set that, or leave quality_list out"),
        (Canny, {"low_threshold": 200}, "200 is more than high_threshold, 100"),
        (RandomMasks, {"min_coverage": 0.9}, "0.9 is more than max_coverage, 0.5"),
        (RandomMasks, {"min_masks": 9}, "9 is more than max_masks, 5"),
        (RandomMasks, {"mask_types": "circel"}, "did you mean 'circle'?"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    section: type[Generator], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        section.model_validate(options)
    assert message in str(caught.value)


def test_what_is_drawn_is_the_same_on_every_machine() -> None:
    dice = PictureDice(7)
    assert [dice.whole(1, 6) for _ in range(8)] == [4, 6, 3, 1, 2, 1, 5, 2]
    assert (round(dice.between(2, 4), 6), dice.one_of("abcdef")) == (3.594139, "b")
    assert np.allclose(PictureDice(1).noise(2, 2), [[1.0765, 1.6493], [-1.8701, 1.5564]], atol=1e-4)
