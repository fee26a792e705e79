"""Which mask belongs to which image, and which files are left over."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.items import Size
from simpletuner.data.pairs import pair, same_shape, unpaired


@pytest.mark.parametrize(
    ("sources", "others", "partners"),
    [
        (["a.jpg"], ["a.jpg"], {"a.jpg": "a.jpg"}),
        (["a.jpg"], ["a.png"], {"a.jpg": "a.png"}),
        (["a.jpg", "b.jpg"], ["b.png", "a.webp"], {"a.jpg": "a.webp", "b.jpg": "b.png"}),
        (["one/a.jpg", "two/a.jpg"], ["two/a.png"], {"two/a.jpg": "two/a.png"}),
        (["a.jpg"], ["one/a.png"], {}),
        (["a.b.jpg"], ["a.png", "a.b.png"], {"a.b.jpg": "a.b.png"}),
        (["v1.0/a.jpg", "v1.0/b.jpg"], ["v1.0/b.png"], {"v1.0/b.jpg": "v1.0/b.png"}),
        (["a.jpg", "a.png"], ["a.png", "a.webp"], {"a.jpg": "a.webp", "a.png": "a.png"}),
        (["a.jpg", "a.png"], ["a.png"], {"a.png": "a.png"}),
        (["a.jpg", "a.png"], ["a.webp"], {"a.jpg": "a.webp", "a.png": "a.webp"}),
        (["a.jpg"], ["a.webp", "a.png"], {"a.jpg": "a.png"}),
        (["e\u0301.jpg"], ["\u00e9.png"], {"e\u0301.jpg": "\u00e9.png"}),
        (["\u00e9.jpg"], ["e\u0301.png"], {"\u00e9.jpg": "e\u0301.png"}),
        ([], ["a.png"], {}),
        (["a.jpg"], [], {}),
    ],
)
def test_the_partner_has_the_same_path_and_perhaps_another_ending(
    sources: list[str], others: list[str], partners: dict[str, str]
) -> None:
    found = pair(sources, others)
    paired = {key: others[place] for key, place in zip(sources, found.partners, strict=True) if place >= 0}
    assert paired == partners
    assert found.lonely == tuple(key for key in sources if key not in partners)
    assert found.surplus == tuple(key for key in others if key not in partners.values())


names = [f"{stem}.{ending}" for stem in "abcd" for ending in ("jpg", "png", "webp")]
keys = st.lists(st.sampled_from(names), unique=True)


@given(keys, keys, st.randoms(use_true_random=False))
def test_what_belongs_together_does_not_depend_on_the_order_of_the_files(sources, others, random):
    def partners(sources: list[str], others: list[str]) -> dict[str, str | None]:
        found = pair(sources, others).partners
        return {key: others[place] if place >= 0 else None for key, place in zip(sources, found, strict=True)}

    expected = partners(sources, others)
    random.shuffle(sources)
    random.shuffle(others)
    assert partners(sources, others) == expected


@given(keys, keys)
def test_every_file_is_either_in_a_pair_or_named_as_left_over(sources, others) -> None:
    found = pair(sources, others)
    used = {others[place] for place in found.partners[found.partners >= 0]}
    assert used | set(found.surplus) == set(others)
    assert used.isdisjoint(found.surplus)
    assert len(found.lonely) == int((found.partners < 0).sum())


def test_files_that_are_left_over_are_named_with_the_reason() -> None:
    found = pair(["a.jpg", "b.jpg"], ["b.png", "c.png"])
    assert list(unpaired(found, "subject", "masks")) == [
        ("a.jpg", "no file of 'masks' has this name, with any ending"),
        ("c.png", "no image of 'subject' has this name, with any ending"),
    ]


def test_a_hundred_thousand_files_are_paired_in_a_moment() -> None:
    sources = [f"folder{n % 100}/image_{n:06d}.jpg" for n in range(100_000)]
    others = [f"{key[:-4]}.png" for key in reversed(sources)]
    began = time.perf_counter()
    found = pair(sources, others)
    assert np.array_equal(found.partners, np.arange(100_000)[::-1])
    assert time.perf_counter() - began < 60  # looking for each in all of them would take minutes


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((640, 480), (640, 480), True),
        ((640, 480), (1280, 960), True),
        ((4000, 3000), (512, 384), True),
        ((1001, 667), (512, 341), True),
        ((640, 480), (480, 640), False),
        ((640, 480), (640, 500), False),
        ((1024, 1024), (1024, 1000), False),
    ],
)
def test_another_resolution_is_the_same_shape_and_another_crop_is_not(
    one: tuple[int, int], other: tuple[int, int], same: bool
) -> None:
    assert same_shape(Size(*one), Size(*other)) == same
    assert same_shape(Size(*other), Size(*one)) == same


@given(st.integers(64, 5000), st.integers(64, 5000), st.floats(0.05, 4))
def test_every_resized_copy_has_the_shape_of_its_image(width: int, height: int, factor: float) -> None:
    copy = Size(max(round(width * factor), 1), max(round(height * factor), 1))
    assert same_shape(Size(width, height), copy)
