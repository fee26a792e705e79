"""Captions are the same text wherever they come from and however they were written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.captions import Rules, alternatives, canonical, decode_text


@pytest.mark.parametrize(
    "text", ["a cat\non a mat", "a cat\r\non a mat\r\n", "\ufeffa cat \non a mat", "  a cat\t\non a mat  \n\n"]
)
def test_the_same_caption_is_spelled_the_same_however_it_was_saved(text: str) -> None:
    assert canonical(text) == "a cat\non a mat"


def test_letters_with_accents_are_composed() -> None:
    assert canonical("cafe\u0301") == canonical("caf\u00e9")


@given(st.text())
def test_a_canonical_caption_stays_as_it_is(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_caption_files_are_read_in_every_usual_encoding(encoding: str) -> None:
    assert canonical(decode_text("déjà vu – a café".encode(encoding))) == "déjà vu – a café"


@pytest.mark.parametrize(
    ("rules", "text", "expected"),
    [
        (Rules(), None, ("a red fox",)),
        (Rules("textfile"), "one \r\n\r\ntwo\r\n", ("one", "two")),
        (Rules("textfile", disable_multiline_split=True), "one \r\ntwo\r\n", ("one\ntwo",)),
        (Rules("textfile"), "", ()),
        (Rules("textfile"), " \n\t\n", ()),
        (Rules("textfile"), None, ()),
        (Rules("instanceprompt", ("ohwx", "a photo of ohwx")), None, ("ohwx", "a photo of ohwx")),
        (Rules("instance_prompt", ("ohwx ",)), None, ("ohwx",)),
        (Rules(instance_prompts=("ohwx",), prepend_instance_prompt=True), None, ("ohwx a red fox",)),
        (Rules("textfile", ("ohwx",), prepend_instance_prompt=True), "b\nc", ("ohwx b", "ohwx c")),
        (Rules("textfile", ("ohwx",), prepend_instance_prompt=True), "", ()),
        (Rules("textfile", ("ohwx",), only_instance_prompt=True), None, ("ohwx",)),
    ],
)
def test_each_strategy_gives_its_alternatives(rules: Rules, text: str | None, expected: tuple[str, ...]) -> None:
    assert alternatives("animals/a_red_fox.jpg", text, rules) == expected
