"""Tables of images as people really have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpletuner.data.web.url_list import Columns, read
from simpletuner.errors import DataError

COLUMNS = Columns("url", "caption")


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "images.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_every_usual_separator_is_found(tmp_path: Path, separator: str) -> None:
    text = f'id{separator}url{separator}caption\n1{separator}http://a/1.png{separator}"a, b; c | d\te"\n'
    assert read(table(tmp_path, text), COLUMNS).images == {"http://a/1.png": ("a, b; c | d\te",)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_usual_encoding_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join(["url,caption", "http://a/1.png,déjà vu – a café", ""])
    found = read(table(tmp_path, text.encode(encoding)), COLUMNS)
    assert found.images == {"http://a/1.png": ("déjà vu – a café",)}


def test_quoted_captions_may_have_lines_and_quotes(tmp_path: Path) -> None:
    text = 'url,caption\nhttp://a/1.png,"two\nlines and a ""quote"""\nhttp://a/2.png,plain\n'
    assert read(table(tmp_path, text), COLUMNS).images == {
        "http://a/1.png": ('two\nlines and a "quote"',),
        "http://a/2.png": ("plain",),
    }


def test_rows_with_one_address_are_one_image_with_alternatives(tmp_path: Path) -> None:
    text = "url,caption\nb,one\na,x\nb,two\nb,one\nb,\n"
    assert list(read(table(tmp_path, text), COLUMNS).images.items()) == [("b", ("one", "two")), ("a", ("x",))]


def test_an_image_without_a_caption_says_that_it_has_none(tmp_path: Path) -> None:
    assert read(table(tmp_path, "url,caption\na,\nb\n"), COLUMNS).images == {"a": (), "b": ()}


def test_empty_lines_are_passed_over_and_rows_without_address_are_counted(tmp_path: Path) -> None:
    found = read(table(tmp_path, "\n\nurl,caption\n\na,x\n,\n,lonely\n\n"), COLUMNS)
    assert found.images == {"a": ("x",)}
    assert found.without_address == 1


def test_letters_of_column_names_may_be_small_or_large(tmp_path: Path) -> None:
    assert read(table(tmp_path, "URL,Caption\na,x\n"), COLUMNS).images == {"a": ("x",)}


def test_missing_columns_are_named_together_with_those_there_are(tmp_path: Path) -> None:
    path = table(tmp_path, "image_url;captions;width\na;b;1\n")
    with pytest.raises(DataError) as error:
        read(path, Columns("url", "caption"))
    assert str(error.value) == (
        f"csv_file {path} has no column for csv_url_column 'url' and csv_caption_column 'caption'; "
        "did you mean 'captions'? its columns are 'image_url', 'captions', 'width'. The first line must name them."
    )


def test_a_table_without_names_of_columns_never_shows_secrets_of_its_addresses(tmp_path: Path) -> None:
    path = table(tmp_path, "https://user:s3cr3t@host/a.png?key=s3cr3t,a cat\n")
    with pytest.raises(DataError, match="its columns are 'https://host/a.png', 'a cat'") as error:
        read(path, COLUMNS)
    assert "s3cr3t" not in str(error.value)


def test_an_empty_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file is empty"):
        read(table(tmp_path, ""), COLUMNS)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the column 'url' twice"):
        read(table(tmp_path, "url,caption,url\na,b,c\n"), COLUMNS)


def test_captions_that_a_separator_would_cut_off_are_refused_with_their_rows(tmp_path: Path) -> None:
    text = "url,caption\na,a cat, sitting\nb,fine\nc,a dog, running\nd,fine,\n"
    with pytest.raises(DataError, match=r"has 2 rows with more than the 2 cells .* in line 2, 4\. .*contain commas"):
        read(table(tmp_path, text), COLUMNS)


def test_a_quotation_mark_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    text = 'url,caption\na,"opened\n' + "b,fine\n" * 30_000
    with pytest.raises(DataError, match="opened there and never closed"):
        read(table(tmp_path, text), COLUMNS)


def test_a_quotation_mark_that_is_never_closed_is_refused_in_a_short_table_too(tmp_path: Path) -> None:
    text = 'url,caption\na,"two\nlines"\nb,"opened\nb,fine\nc,fine\n'
    with pytest.raises(DataError, match=r"from line 4 on: a quotation mark is opened there and never closed\."):
        read(table(tmp_path, text), COLUMNS)


def test_a_quotation_mark_inside_a_caption_is_part_of_it(tmp_path: Path) -> None:
    text = 'url,caption\na,a 5" disk\nb,"a" and b\n'
    assert read(table(tmp_path, text), COLUMNS).images == {"a": ('a 5" disk',), "b": ("a and b",)}


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere.csv: no such file or directory. Check csv_file."):
        read(tmp_path / "nowhere.csv", COLUMNS)
