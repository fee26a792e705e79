"""Odd captions are found and named, and those that are fine are left in peace."""

import pytest

from simpletuner.data.captions import Rules, alternatives
from simpletuner.data.captions.lint import KINDS, Captioned, Finding, lint, statistics, too_long
from simpletuner.data.sections import CaptionPipeline

FILES = Rules("textfile")


def image(key: str, text: str | None, rules: Rules = FILES) -> Captioned:
    texts = None if text is None else (text,)
    return Captioned(key, texts, alternatives(key, texts, rules))


def kinds(text: str | None, rules: Rules = FILES, key: str = "a.png") -> list[str]:
    return [finding.kind for finding in lint([image(key, text, rules)], rules)]


@pytest.mark.parametrize(
    "text",
    [
        "a red fox in the snow",
        "a café in Zürich, “quoted” – with dashes… and €",
        "一只红狐狸, лиса, 狐",
        "naïve façade, coöperate, Ærø",
        "I can't believe it's a fox, AIs & co",
        "a photo of <sks> fox, 3 < 4 (sort of)",
        "an image, 1girl, solo, {braces}",
    ],
)
def test_good_captions_are_left_in_peace(text: str) -> None:
    assert kinds(text) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (None, "missing"),
        ("", "empty"),
        (" \r\n", "empty"),
        ("a café".encode().decode("latin-1"), "wrong alphabet"),
        ("it’s a fox".encode().decode("cp1252"), "wrong alphabet"),
        ("a caf\ufffd", "wrong alphabet"),
        ("\x01fox\x02", "no text"),
        ("a fox<br/>in the snow", "markup"),
        ("a fox &amp; a cat", "markup"),
        ("a fox <lora:detail:0.8>", "prompt syntax"),
        ("a (fox:1.3) in the snow", "prompt syntax"),
        ("a fox, see https://example.com/fox.jpg", "address"),
        ("I'm sorry, but I cannot help with that", "refusal"),
        ("fox " * 301, "very long"),
    ],
)
def test_odd_captions_are_named(text: str | None, kind: str) -> None:
    assert kinds(text) == [kind]
    assert kind in KINDS


def test_what_looks_odd_is_shown() -> None:
    assert lint([image("a.png", "see www.example.com now")], FILES) == (
        Finding("address", ("a.png",), "www.example.com"),
    )


def test_images_that_share_a_caption_are_named_together() -> None:
    images = [image("a.png", "a fox"), image("b.png", "a cat"), image("c.png", "a fox\r\n"), image("d.png", "x\nx")]
    assert lint(images, FILES) == (Finding("duplicate", ("a.png", "c.png"), "a fox"),)


def test_a_prompt_for_all_images_is_no_duplicate() -> None:
    rules = Rules("instanceprompt", ("ohwx",))
    assert lint([image(key, None, rules) for key in ("a.png", "b.png")], rules) == ()


def test_images_that_use_the_fallback_are_missing_their_captions_and_are_no_duplicates() -> None:
    rules = Rules("textfile", fallback="a thing")
    found = lint([image("a.png", None, rules), image("b.png", "\n", rules)], rules)
    assert [(finding.kind, finding.keys) for finding in found] == [("missing", ("a.png",)), ("empty", ("b.png",))]


def test_a_caption_that_filters_take_out_wholly_is_named() -> None:
    rules = Rules("textfile", filters=("fox",))
    assert kinds("fox", rules) == ["nothing left"]


@pytest.mark.parametrize(
    ("key", "odd"),
    [
        ("IMG_1234.jpg", True),
        ("DSC00017.jpg", True),
        ("0001.png", True),
        ("image (3).png", True),
        ("d41d8cd98f00b204e9800998ecf8427e.png", True),
        ("a_red_fox.jpg", False),
        ("fox 3.jpg", False),
        ("ohwx.png", False),
    ],
)
def test_file_names_of_cameras_are_no_captions(key: str, odd: bool) -> None:
    assert kinds(None, Rules(), key) == ["file name"] * odd


def test_an_open_brace_is_odd_only_where_braces_mean_something() -> None:
    assert kinds("a {red|green fox") == []
    rules = Rules("textfile", pipeline=CaptionPipeline(enable_wildcard=True))
    assert kinds("a {red|green fox", rules) == ["open brace"]
    assert kinds("a {red|green} {{fox", rules) == []


def test_texts_beyond_what_an_encoder_reads_are_found() -> None:
    found = too_long(["one two", "one two three", "one two three"], lambda text: (len(text.split()), 1), (2, 9))
    assert [(one.text, one.tokens, one.limits) for one in found] == [("one two three", (3, 1), (2, 9))]
    assert too_long(["one two"], lambda text: (1, 99), (2, 9))[0].tokens == (1, 99)


def test_captions_are_counted() -> None:
    rules = Rules("textfile", pipeline=CaptionPipeline(shuffle_caption=True, enable_wildcard=True))
    texts = ["fox, Snow\nsnow, a white fox", "snow, fox", None]
    found = statistics([image(f"{n}.png", text, rules) for n, text in enumerate(texts)], rules, most=2)
    assert (found.images, found.captions, found.distinct) == (3, 3, 3)
    assert found.texts == 6
    assert found.mean_words == pytest.approx(8 / 3)
    assert found.most_words == 4
    assert found.tags == (("snow", 3), ("fox", 2))


def test_no_captions_have_statistics_too() -> None:
    found = statistics([], FILES)
    assert (found.images, found.captions, found.mean_words, found.tags) == (0, 0, 0.0, ())
