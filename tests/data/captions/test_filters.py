"""Filter lists take out what they name, and say which of their entries are wrong."""

import json
from pathlib import Path

import pytest

from simpletuner.data.captions.filters import filtered, load_filters
from simpletuner.errors import DataError


@pytest.mark.parametrize(
    ("filters", "caption", "expected"),
    [
        ((), "a fox", "a fox"),
        (("watermark",), "a fox, watermark, snow", "a fox, , snow"),
        ((", watermark",), "a fox, watermark", "a fox"),
        ((r"\d+px",), "a fox 512px", "a fox "),
        (("s/fox/cat",), "a fox, a Fox", "a cat, a Fox"),
        ((r"s/(\w+) fox/\1 cat",), "red fox", "red cat"),
        (("s/fox/",), "a fox.", "a ."),
        ((r"s/(?i)FOX/cat",), "a Fox", "a cat"),
        (("s/fox/cat", "s/cat/dog"), "a fox", "a dog"),
        (("s/a/b/",), "s/a/b/ is no replacement, aha", " is no replacement, aha"),
        (("1.5",), "version 1.5 of 1x5", "version  of "),
        (("/",), "cats/dogs", "catsdogs"),
    ],
)
def test_entries_are_replacements_or_else_removed_as_words_and_as_expressions(
    filters: tuple[str, ...], caption: str, expected: str
) -> None:
    assert filtered(caption, load_filters(filters)) == expected


def test_a_list_may_stand_in_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "filters.json").write_text(json.dumps(["watermark", "", "s/fox/cat"]))
    assert load_filters(["filters.json"], tmp_path) == ("watermark", "s/fox/cat")


def test_a_list_may_stand_in_a_text_file_saved_by_any_editor(tmp_path: Path) -> None:
    (tmp_path / "filters.txt").write_bytes("café\r\n\r\ns/fox/cat\r\n".encode("utf-16"))
    assert load_filters([str(tmp_path / "filters.txt")]) == ("café", "s/fox/cat")


def test_a_file_name_among_other_entries_is_a_word_like_any_other() -> None:
    assert filtered("see notes.txt, a fox", load_filters(["notes.txt", "fox"])) == "see , a "


def test_every_wrong_entry_is_named_at_once() -> None:
    with pytest.raises(DataError) as error:
        load_filters(["fine", "(", ":)", r"s/x/\9"])
    message = str(error.value)
    assert message.startswith("caption filters that are no regular expressions: '(' (")
    assert all(wrong in message for wrong in ("'('", "':)'", r"'s/x/\9'", "backslash"))
    assert "fine" not in message


def test_a_wrong_entry_in_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "filters.txt").write_text("[\n")
    with pytest.raises(DataError, match=r"filters\.txt"):
        load_filters(["filters.txt"], tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{", "are not JSON, line 1"), ('{"a": 1}', "must be a list of texts"), ("[1]", "must be a list of texts")],
)
def test_a_json_file_that_is_no_list_of_texts_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "filters.json").write_text(content)
    with pytest.raises(DataError, match=complaint):
        load_filters(["filters.json"], tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"caption filters in .*gone\.txt cannot be read \(No such file"):
        load_filters(["gone.txt"], tmp_path)
