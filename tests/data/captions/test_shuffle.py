"""caption_shuffle makes the captions it promises, and always the same ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.captions.shuffle import shuffled
from simpletuner.data.sections import CaptionShuffle

CAPTION = "fox, snow, forest, winter, soft light"


def test_without_enable_a_caption_stays_alone() -> None:
    assert shuffled(CAPTION, CaptionShuffle(count=5), 0) == (CAPTION,)


def test_the_caption_itself_comes_first_and_then_as_many_others_as_asked_for() -> None:
    found = shuffled(CAPTION, CaptionShuffle(enable=True, count=4), 0)
    assert found[0] == CAPTION
    assert len(set(found)) == 5
    assert all(sorted(one.split(", ")) == sorted(CAPTION.split(", ")) for one in found)


def test_the_caption_itself_can_be_left_out() -> None:
    found = shuffled(CAPTION, CaptionShuffle(enable=True, count=4, include_original=False), 0)
    assert len(found) == 4
    assert CAPTION not in found


def test_the_first_parts_stay_in_their_place() -> None:
    found = shuffled(CAPTION, CaptionShuffle(enable=True, count=5, position_start=2), 0)
    assert len(found) == 6
    assert all(one.startswith("fox, snow, ") for one in found)


@pytest.mark.parametrize(
    ("caption", "count"),
    [("fox", 1), ("fox, snow", 2), ("a, b, c", 6), ("a, a, a", 1), ("a, a, b", 3), ("", 1), (" , ", 1)],
)
def test_there_are_never_more_orders_than_there_can_be(caption: str, count: int) -> None:
    assert len(shuffled(caption, CaptionShuffle(enable=True, count=50), 0)) == count


def test_a_caption_that_cannot_be_shuffled_is_never_lost() -> None:
    assert shuffled("a fox", CaptionShuffle(enable=True, include_original=False), 0) == ("a fox",)


@pytest.mark.parametrize(
    ("split_on", "caption", "expected"),
    [
        ("comma", "a,b", ("a,b", "b, a")),
        ("space", "red fox", ("red fox", "fox red")),
        ("period", "A fox. It runs.", ("A fox. It runs.", "It runs. A fox.")),
        ("period", "A fox. It runs", ("A fox. It runs", "It runs. A fox")),
    ],
)
def test_parts_end_where_the_option_says(split_on: str, caption: str, expected: tuple[str, ...]) -> None:
    assert shuffled(caption, CaptionShuffle(enable=True, split_on=split_on), 0) == expected


def test_a_seed_of_its_own_wins_over_the_seed_of_the_run_even_if_it_is_0() -> None:
    own = CaptionShuffle(enable=True, count=3, seed=0)
    assert shuffled(CAPTION, own, 1) == shuffled(CAPTION, own, 2)
    without = CaptionShuffle(enable=True, count=3)
    assert shuffled(CAPTION, without, 1) != shuffled(CAPTION, without, 2)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=8), st.integers(1, 6), st.integers(1, 4))
def test_more_shuffles_keep_those_there_were(parts: list[str], count: int, more: int) -> None:
    few = shuffled(", ".join(parts), CaptionShuffle(enable=True, count=count), 0)
    many = shuffled(", ".join(parts), CaptionShuffle(enable=True, count=count + more), 0)
    assert many[: len(few)] == few
    assert len(set(many)) == len(many)
