"""The steps of sd-scripts happen in their order, and every text they can make is known beforehand."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.captions.pipeline import Moment, result, results
from simpletuner.data.sections import CaptionPipeline

TAGS = "fox, snow, forest, winter, soft light"


def everything(caption: str, seed: int = 1, **options: object) -> set[str]:
    return set(results(caption, CaptionPipeline.model_validate(options), seed))


@pytest.mark.parametrize(
    ("options", "caption", "expected"),
    [
        ({}, TAGS, TAGS),
        ({"caption_prefix": "ohwx,", "caption_suffix": "best"}, "fox", "ohwx, fox best"),
        ({"caption_suffix": "best"}, "", "best"),
        ({"keep_tokens": 2}, "a,b ,c", "a,b ,c"),
        ({"secondary_separator": ";"}, "a;b, c;d", "a,b, c,d"),
        ({"secondary_separator": ";", "caption_separator": "|"}, "a;b|c", "a|b|c"),
        ({"keep_tokens_separator": "|||"}, "a, b ||| c ||| d", "a, b, c, d"),
        ({"keep_tokens_separator": "|||"}, "a, b ||| c", "a, b, c"),
        ({"keep_tokens_separator": "|||"}, "a,b", "a,b"),
        ({"keep_tokens_separator": "|||"}, "a ||| b ||| c ||| d", "a, b, c, d"),
        ({"enable_wildcard": True}, "a {{red}} fox", "a {red} fox"),
        ({"enable_wildcard": True}, "a {red} fox", "a red fox"),
        ({"enable_wildcard": True}, "a {red fox", "a {red fox"),
        ({"enable_wildcard": False}, "a {red|green} fox", "a {red|green} fox"),
        ({"caption_tag_dropout_rate": 1, "keep_tokens": 1}, "a, b, c", "a"),
        ({"caption_tag_dropout_rate": 1}, "a, b, c", ""),
        ({"shuffle_caption": True}, "a fox", "a fox"),
        ({"shuffle_caption": True, "caption_separator": ";"}, ";; a fox ;", "a fox"),
    ],
)
def test_steps_that_never_change_have_one_result(options: dict[str, object], caption: str, expected: str) -> None:
    assert everything(caption, **options) == {expected}


def test_shuffling_keeps_every_tag_and_the_first_ones_in_their_place() -> None:
    found = everything(TAGS, shuffle_caption=True, keep_tokens=2, variants=50)
    assert len(found) == 6
    assert all(text.startswith("fox, snow, ") for text in found)
    assert all(sorted(text.split(", ")) == sorted(TAGS.split(", ")) for text in found)


def test_a_separator_marks_what_stays_at_both_ends_and_wins_over_a_number_of_tags() -> None:
    found = everything("a, b ||| c, d ||| e, f", shuffle_caption=True, keep_tokens=1, keep_tokens_separator="|||")
    assert found == {"a, b, c, d, e, f", "a, b, d, c, e, f"}


def test_tags_joined_by_the_secondary_separator_stay_together() -> None:
    found = everything("a;b, c;d", shuffle_caption=True, secondary_separator=";")
    assert found == {"a,b, c,d", "c,d, a,b"}


def test_a_wildcard_gives_each_of_its_words_and_nested_ones_too() -> None:
    assert everything("a {red|green|blue} fox", enable_wildcard=True, variants=30) == {
        "a red fox",
        "a green fox",
        "a blue fox",
    }
    assert everything("{a {red|dark red} fox|snow}", enable_wildcard=True, variants=40) == {
        "a red fox",
        "a dark red fox",
        "snow",
    }


def test_wildcards_come_after_prefixes_and_before_tags() -> None:
    found = everything(
        "fox", caption_prefix="{a, b|c, d},", enable_wildcard=True, shuffle_caption=True, keep_tokens=1, variants=60
    )
    assert found == {"a, b, fox", "a, fox, b", "c, d, fox", "c, fox, d"}


def test_tag_dropout_leaves_out_the_given_share_and_never_fixed_tags() -> None:
    caption = ", ".join(["keep", *(f"tag{n}" for n in range(20))])
    options = CaptionPipeline(caption_tag_dropout_rate=0.3, keep_tokens=1, variants=400)
    found = [text.split(", ") for text in results(caption, options, 5)]
    assert all(tags[0] == "keep" for tags in found)
    left = sum(len(tags) - 1 for tags in found) / (400 * 20)
    assert left == pytest.approx(0.7, abs=0.02)
    assert all(tags == sorted(tags, key=caption.index) for tags in found)


def test_each_use_of_a_caption_draws_evenly_among_the_results() -> None:
    options = CaptionPipeline(caption_tag_dropout_rate=0.5, variants=4)
    drawn = Counter(result("a", options, 3, Moment(draw, 0, 100)) for draw in range(400))
    made = Counter(results("a", options, 3))
    assert drawn == {text: count * 100 for text, count in made.items()}


def warmed(step: int, *, tags: int = 10, **options: object) -> int:
    caption = ", ".join(f"t{n}" for n in range(tags))
    pipeline = CaptionPipeline.model_validate(options)
    text = result(caption, pipeline, 1, Moment(0, step, 1000))
    assert text in set(results(caption, pipeline, 1))
    assert text.split(", ") == [f"t{n}" for n in range(len(text.split(", ")))]
    return len(text.split(", "))


def test_tags_are_warmed_up_as_the_formula_says() -> None:
    options = {"token_warmup_min": 2, "token_warmup_step": 80}
    assert [warmed(step, **options) for step in range(100)] == [
        step * (10 - 2) // 80 + 2 if step < 80 else 10 for step in range(100)
    ]


def test_a_warm_up_below_1_is_a_share_of_the_run() -> None:
    options = {"token_warmup_min": 2, "token_warmup_step": 0.2}
    assert [warmed(step, **options) for step in (0, 24, 25, 100, 199, 200, 999)] == [2, 2, 3, 6, 9, 10, 10]


def test_a_long_list_of_tags_is_warmed_up_in_a_few_stages_from_the_first_number_to_all() -> None:
    options = {"token_warmup_min": 3, "token_warmup_step": 500}
    found = [warmed(step, tags=203, **options) for step in range(0, 520, 5)]
    assert found == sorted(found)
    assert found[0] == 3 and found[-1] == 203
    assert len(set(found)) == 9
    assert all(got <= step * 200 // 500 + 3 for got, step in zip(found[:100], range(0, 500, 5), strict=True))


@pytest.mark.parametrize("tags", [1, 2])
def test_few_tags_need_no_warm_up(tags: int) -> None:
    assert warmed(0, tags=tags, token_warmup_min=2, token_warmup_step=100) == tags


def test_a_warm_up_shorter_than_the_list_of_tags_makes_only_what_its_steps_reach() -> None:
    caption = ", ".join(f"t{n}" for n in range(100))
    found = set(results(caption, CaptionPipeline(token_warmup_step=3), 1))
    assert sorted(len(text.split(", ")) for text in found) == [1, 34, 67, 100]


def test_warm_up_counts_only_tags_that_may_move() -> None:
    options = CaptionPipeline(token_warmup_step=10, keep_tokens_separator="|||")
    assert result("a, b ||| c, d ||| e", options, 1, Moment(0, 0, 100)) == "a, b, c, e"


def test_the_number_of_texts_stays_bounded_however_many_tags_there_are() -> None:
    caption = ", ".join(f"t{n}" for n in range(300))
    found = everything(caption, shuffle_caption=True, token_warmup_step=0.5, caption_tag_dropout_rate=0.1)
    assert len(found) <= 8 + 2 * 8


@given(
    caption=st.text(alphabet="ab,{}|; ", max_size=30),
    seed=st.integers(0, 2**40),
    draw=st.integers(0, 2**62),
    step=st.integers(0, 60),
    total=st.integers(1, 60),
    wildcard=st.booleans(),
    shuffle=st.booleans(),
    rate=st.sampled_from([0.0, 0.4, 1.0]),
    warm_up=st.sampled_from([0.0, 0.3, 1.0, 7.0, 40.0]),
    least=st.integers(1, 4),
    keep=st.integers(0, 3),
    separator=st.sampled_from(["", "|", ";"]),
    variants=st.integers(1, 9),
)
def test_whatever_a_use_gets_was_known_beforehand(
    caption: str,
    seed: int,
    draw: int,
    step: int,
    total: int,
    wildcard: bool,
    shuffle: bool,
    rate: float,
    warm_up: float,
    least: int,
    keep: int,
    separator: str,
    variants: int,
) -> None:
    options = CaptionPipeline(
        enable_wildcard=wildcard,
        shuffle_caption=shuffle,
        caption_tag_dropout_rate=rate,
        token_warmup_step=warm_up,
        token_warmup_min=least,
        keep_tokens=keep,
        keep_tokens_separator=separator,
        variants=variants,
    )
    assert result(caption, options, seed, Moment(draw, step, total)) in set(results(caption, options, seed))
