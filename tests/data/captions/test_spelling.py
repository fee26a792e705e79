"""The same text is spelled the same however and wherever it was saved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.captions.spelling import canonical, decode_text


@pytest.mark.parametrize(
    "text", ["a cat\non a mat", "a cat\r\non a mat\r\n", "\ufeffa cat \non a mat", " \ufeff a cat\t\non a mat  \n\n"]
)
def test_the_same_caption_is_spelled_the_same_however_it_was_saved(text: str) -> None:
    assert canonical(text) == "a cat\non a mat"


def test_letters_with_accents_are_composed() -> None:
    assert canonical("cafe\u0301") == canonical("caf\u00e9")


def test_half_a_letter_is_made_whole_so_that_the_caption_has_bytes() -> None:
    assert canonical("a \ud83d cat").encode() == b"a ? cat"


@given(st.text())
def test_a_canonical_caption_stays_as_it_is(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@given(st.text(alphabet=" \t\n\r\ufeff\u0301\u2000\x1c\x85ae\u00e9"))
def test_a_caption_of_odd_letters_stays_as_it_is_too(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_caption_files_are_read_in_every_usual_encoding(encoding: str) -> None:
    assert canonical(decode_text("déjà vu – a café".encode(encoding))) == "déjà vu – a café"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb2312", "gbk"])
def test_caption_files_in_chinese_are_read_in_every_usual_encoding(encoding: str) -> None:
    assert decode_text("一只红狐狸, red fox".encode(encoding)) == "一只红狐狸, red fox"


@given(st.binary())
def test_any_bytes_give_a_text_that_can_be_encoded(data: bytes) -> None:
    assert canonical(decode_text(data)).encode() is not None
