"""Every text that a use of an image can get is known beforehand, whatever the strategy and the options."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.captions import CAPTION_STRATEGIES, Rules, Use, alternatives, chosen, conflicts, dropped
from simpletuner.data.sections import CaptionPipeline, CaptionShuffle

KEY = "animals/a_red_fox.jpg"
PLAIN = ("a red fox, snow, forest, winter",)


def use(sample: int = 0, *, epoch: int = 1, step: int = 0) -> Use:
    return Use(sample=sample, epoch=epoch, step=step, total_steps=1000)


@pytest.mark.parametrize(
    ("rules", "texts", "expected"),
    [
        (Rules(), None, ("a red fox",)),
        (Rules(), ("something else",), ("a red fox",)),
        (Rules("textfile"), ("one \r\n\r\ntwo\r\n",), ("one", "two")),
        (Rules("textfile"), ("one\none\n two",), ("one", "two")),
        (Rules("textfile", disable_multiline_split=True), ("one \r\ntwo\r\n",), ("one\ntwo",)),
        (Rules("textfile"), ("",), ()),
        (Rules("textfile"), (" \n\t\n",), ()),
        (Rules("textfile"), None, ()),
        (Rules("textfile", fallback="a thing"), None, ("a thing",)),
        (Rules("textfile", fallback="a thing"), (" \n",), ("a thing",)),
        (Rules("textfile", fallback="a thing"), ("one",), ("one",)),
        (Rules("instanceprompt", ("ohwx", "a photo of ohwx")), None, ("ohwx", "a photo of ohwx")),
        (Rules("instance_prompt", ("ohwx ",)), None, ("ohwx",)),
        (Rules(instance_prompts=("ohwx",), prepend_instance_prompt=True), None, ("ohwx a red fox",)),
        (Rules("instanceprompt", ("ohwx",), prepend_instance_prompt=True), None, ("ohwx",)),
        (Rules("textfile", ("x", "y"), prepend_instance_prompt=True), ("b\nc",), ("x b", "x c", "y b", "y c")),
        (Rules("textfile", ("ohwx",), prepend_instance_prompt=True), ("",), ()),
        (Rules("textfile", ("ohwx",), prepend_instance_prompt=True, fallback="it"), ("",), ("ohwx it",)),
        (Rules("textfile", ("ohwx",), only_instance_prompt=True), None, ("ohwx",)),
        (Rules("textfile", ("ohwx",), only_instance_prompt=True, prepend_instance_prompt=True), ("b",), ("ohwx",)),
        (Rules("parquet"), ("one", " ", "two\r\nlines"), ("one", "two\nlines")),
        (Rules("csv"), (), ()),
        (Rules("huggingface"), None, ()),
        (Rules("webshart"), ("cafe\u0301",), ("caf\u00e9",)),
        (Rules("textfile", filters=("snow, ", "s/fox/cat")), PLAIN, ("a red cat, forest, winter",)),
        (Rules("textfile", filters=("s/two/one",)), ("one\ntwo",), ("one",)),
        (Rules("textfile", filters=("one",)), ("one\ntwo",), ("two",)),
        (Rules("textfile", filters=(".*",)), PLAIN, ("",)),
        (Rules("textfile", ("photo of",), prepend_instance_prompt=True, filters=("photo of ",)), ("x",), ("x",)),
    ],
)
def test_each_strategy_gives_its_alternatives(
    rules: Rules, texts: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    assert alternatives(KEY, texts, rules) == expected


def test_every_strategy_says_what_it_is() -> None:
    assert all(CAPTION_STRATEGIES.summary(name).endswith(".") for name in CAPTION_STRATEGIES)


def test_the_prompt_comes_in_front_of_shuffled_captions_and_stays_there() -> None:
    rules = Rules(
        "textfile", ("ohwx,",), prepend_instance_prompt=True, shuffle=CaptionShuffle(enable=True, count=3), seed=3
    )
    found = alternatives(KEY, PLAIN, rules)
    assert len(found) == 4
    assert found[0] == "ohwx, a red fox, snow, forest, winter"
    assert all(text.startswith("ohwx, ") for text in found)


def test_each_line_of_a_caption_file_is_shuffled() -> None:
    rules = Rules("textfile", shuffle=CaptionShuffle(enable=True))
    assert alternatives(KEY, ("a, b\nc, d",), rules) == ("a, b", "b, a", "c, d", "d, c")


def test_with_the_pipeline_only_wildcards_look_beyond_the_first_line_of_a_caption_file() -> None:
    text = ("\n one\ntwo\n",)
    assert alternatives(KEY, text, Rules("textfile", pipeline=CaptionPipeline())) == ("one",)
    wild = CaptionPipeline(enable_wildcard=True, caption_prefix="ohwx")
    assert alternatives(KEY, text, Rules("textfile", pipeline=wild)) == ("ohwx one", "ohwx two")
    assert alternatives(KEY, text, Rules("csv", pipeline=wild)) == ("ohwx one", "ohwx two")


def test_the_fallback_goes_through_the_pipeline_like_any_caption() -> None:
    rules = Rules("textfile", fallback="a fox", pipeline=CaptionPipeline(caption_prefix="ohwx"))
    assert alternatives(KEY, None, rules) == ("ohwx a fox",)


def test_variants_differ_from_image_to_image_and_with_the_seed() -> None:
    pipeline = CaptionPipeline(shuffle_caption=True, variants=2)
    first = alternatives("a.png", PLAIN, Rules("textfile", pipeline=pipeline, seed=1))
    assert first == alternatives("a.png", PLAIN, Rules("textfile", pipeline=pipeline, seed=1))
    assert first != alternatives("b.png", PLAIN, Rules("textfile", pipeline=pipeline, seed=1))
    assert first != alternatives("a.png", PLAIN, Rules("textfile", pipeline=pipeline, seed=2))


def test_alternatives_are_drawn_equally_often() -> None:
    rules = Rules("textfile")
    texts = ("one\ntwo\nthree",)
    found = alternatives(KEY, texts, rules)
    counts = Counter(chosen(found, KEY, texts, rules, use(sample), 7) for sample in range(3000))
    assert set(counts) == {"one", "two", "three"}
    assert all(900 < count < 1100 for count in counts.values())


def test_a_use_gets_the_same_text_each_time_it_is_asked_for() -> None:
    rules = Rules("textfile", dropout=0.3, pipeline=CaptionPipeline(shuffle_caption=True, variants=20))
    found = alternatives(KEY, PLAIN, rules)
    texts = [chosen(found, KEY, PLAIN, rules, use(sample), 7) for sample in range(50)]
    assert texts == [chosen(found, KEY, PLAIN, rules, use(sample), 7) for sample in range(50)]
    assert texts != [chosen(found, KEY, PLAIN, rules, use(sample), 8) for sample in range(50)]


def test_an_image_without_captions_gets_none() -> None:
    assert chosen((), KEY, None, Rules("textfile"), use(), 1) == ""


@pytest.mark.parametrize(
    ("dropout", "own", "expected"), [(0.25, None, 0.25), (0.25, 0.0, 0.0), (0.0, 0.5, 0.5), (0.0, 1.0, 1.0)]
)
def test_captions_are_dropped_at_the_rate_of_the_data_set_or_else_of_the_run(
    dropout: float, own: float | None, expected: float
) -> None:
    rules = Rules(dropout=dropout, pipeline=CaptionPipeline(caption_dropout_rate=own))
    share = sum(dropped(rules, use(sample), 3) for sample in range(4000)) / 4000
    assert share == pytest.approx(expected, abs=0.03)


def test_every_so_many_epochs_no_captions_are_used_at_all() -> None:
    rules = Rules(pipeline=CaptionPipeline(caption_dropout_every_n_epochs=3))
    found = alternatives(KEY, None, rules)
    texts = [chosen(found, KEY, None, rules, use(epoch=epoch), 1) for epoch in range(1, 8)]
    assert texts == ["a red fox", "a red fox", "", "a red fox", "a red fox", "", "a red fox"]


def test_warm_up_follows_the_step_of_the_use() -> None:
    rules = Rules("textfile", pipeline=CaptionPipeline(token_warmup_step=0.1))
    found = alternatives(KEY, PLAIN, rules)
    texts = [chosen(found, KEY, PLAIN, rules, use(step=step), 1) for step in (0, 34, 67, 100)]
    assert texts == ["a red fox", "a red fox, snow", "a red fox, snow, forest", "a red fox, snow, forest, winter"]


def test_the_pipeline_and_caption_shuffle_do_not_go_together() -> None:
    shuffle = CaptionShuffle(enable=True)
    assert [option for option, _ in conflicts(Rules(shuffle=shuffle, pipeline=CaptionPipeline()))] == [
        "caption_shuffle"
    ]
    assert not list(conflicts(Rules(shuffle=shuffle)))
    assert not list(conflicts(Rules(shuffle=CaptionShuffle(), pipeline=CaptionPipeline())))


def test_separators_must_differ() -> None:
    pipeline = CaptionPipeline(caption_separator=";", secondary_separator=";", keep_tokens_separator="|||")
    assert list(conflicts(Rules(pipeline=pipeline))) == [
        ("caption_pipeline › secondary_separator", "';' is caption_separator already; choose another one")
    ]


@given(
    texts=st.one_of(st.none(), st.lists(st.text(alphabet="ab,{}|\n é", max_size=20), max_size=3).map(tuple)),
    strategy=st.sampled_from(["textfile", "filename", "csv", "instanceprompt"]),
    prompts=st.sampled_from([(), ("ohwx",), ("x, ", "y")]),
    prepend=st.booleans(),
    only=st.booleans(),
    whole=st.booleans(),
    fallback=st.sampled_from(["", "a thing"]),
    filters=st.sampled_from([(), ("a",), ("s/b/c", "x")]),
    shuffle=st.sampled_from([None, CaptionShuffle(enable=True, count=2), CaptionShuffle()]),
    pipeline=st.sampled_from(
        [
            None,
            CaptionPipeline(caption_prefix="p", keep_tokens_separator="|"),
            CaptionPipeline(enable_wildcard=True, shuffle_caption=True, caption_tag_dropout_rate=0.5, variants=3),
            CaptionPipeline(shuffle_caption=True, keep_tokens=1, token_warmup_step=0.5, caption_dropout_rate=0.2),
        ]
    ),
    sample=st.integers(0, 10**6),
    step=st.integers(0, 1000),
)
def test_whatever_a_use_gets_has_been_encoded(
    texts: tuple[str, ...] | None,
    strategy: str,
    prompts: tuple[str, ...],
    prepend: bool,
    only: bool,
    whole: bool,
    fallback: str,
    filters: tuple[str, ...],
    shuffle: CaptionShuffle | None,
    pipeline: CaptionPipeline | None,
    sample: int,
    step: int,
) -> None:
    rules = Rules(
        strategy,
        prompts,
        prepend_instance_prompt=prepend,
        only_instance_prompt=only,
        disable_multiline_split=whole,
        fallback=fallback,
        filters=filters,
        shuffle=shuffle,
        pipeline=pipeline,
        seed=5,
    )
    found = alternatives(KEY, texts, rules)
    assert len(set(found)) == len(found)
    assert chosen(found, KEY, texts, rules, use(sample, step=step), 9) in {*found, ""}
