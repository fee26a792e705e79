"""Which images look alike: copies are found after what programs do to them, and different pictures are not."""

import io
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from simpletuner.data.report.duplicates import Look, Looks, groups, look_at


def scene(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """A drawing with a sky, some hills and some things."""
    random_ = random.Random(seed)
    colour = lambda: tuple(random_.randrange(30, 230) for _ in range(3))  # noqa: E731
    image = Image.new("RGB", size, colour())
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        left, top = random_.randrange(size[0]), random_.randrange(size[1])
        box = (left, top, left + random_.randrange(40, 200), top + random_.randrange(40, 200))
        random_.choice([draw.ellipse, draw.rectangle])(box, fill=colour())
    return image


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def grouped(*images: Image.Image) -> tuple[tuple[int, ...], ...]:
    return groups(Looks.of([look_at(image) for image in images]))


CHANGES = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "another shape": lambda image: image.resize((image.width, image.height * 4 // 5)),
    "low quality": lambda image: as_jpeg(image, 15),
    "a little brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.06),
    "without its edges": lambda image: image.crop((3, 3, image.width - 3, image.height - 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_other_pictures(change: str) -> None:
    pictures = [scene(seed) for seed in range(12)]
    assert grouped(*pictures, CHANGES[change](pictures[5])) == ((5, 12),)


def test_different_pictures_are_not_alike() -> None:
    assert grouped(*(scene(seed) for seed in range(60))) == ()


def test_plain_pictures_are_told_apart_by_their_colours() -> None:
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    assert grouped(red, blue, Image.new("RGB", (200, 90), "red")) == ((0, 2),)


def test_the_largest_group_comes_first() -> None:
    one, other = scene(1), scene(2)
    assert grouped(one, other, one, other, other) == ((1, 3, 4), (0, 2))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3)])
def test_tiny_pictures_have_a_look_too(size: tuple[int, int]) -> None:
    assert len(look_at(Image.new("RGB", size, "green")).colours) == 192


def test_what_an_image_looks_like_never_changes() -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    assert look_at(picture) == Look(0, look_at(picture).waves, bytes(np.repeat(range(16, 256, 32), 24).tolist()))


def random_looks(count: int, seed: int = 0) -> Looks:
    numbers = np.random.default_rng(seed)
    hashes = numbers.integers(0, 2**63, (2, count), dtype=np.uint64)
    return Looks(hashes[0], hashes[1], numbers.integers(0, 256, (count, 192), dtype=np.uint8))


def test_no_pair_is_missed_that_comparing_all_pairs_would_find() -> None:
    looks = random_looks(400)
    numbers = np.random.default_rng(1)
    pairs = numbers.permutation(400)[:300].reshape(150, 2)
    for one, other in pairs.tolist():
        flips = numbers.permutation(64)[: numbers.integers(0, 8)]
        looks.gradients[other] = looks.gradients[one] ^ np.uint64(sum(1 << int(bit) for bit in flips))
        looks.waves[other] = looks.waves[one]
        looks.colours[other] = looks.colours[one]
    assert sorted(groups(looks)) == sorted(tuple(sorted(pair)) for pair in pairs.tolist())


def test_ten_thousand_pictures_with_one_background_take_bounded_time() -> None:
    looks = random_looks(10_000)
    looks.gradients[:] = 0
    looks.waves[5000:] = looks.waves[:5000]
    looks.colours[5000:] = looks.colours[:5000]
    assert len(groups(looks)) == 5000


def test_chains_and_copies_end_in_one_group() -> None:
    looks = random_looks(300)
    looks.waves[:] = looks.waves[0]
    looks.colours[:] = looks.colours[0]
    looks.gradients[:] = [(1 << place) - 1 if place < 64 else 2**64 - 1 for place in range(300)]
    assert groups(looks) == (tuple(range(300)),)
