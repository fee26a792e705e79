"""Lists for people: one line a file, whatever is in its name, and no list when there is nothing to tell."""

from pathlib import Path

from simpletuner.data.manifest import Skipped
from simpletuner.data.skipped import write_skip_list, write_table
from simpletuner.data.sources.base import wanted
from simpletuner.data.sources.local import LocalFolder


def test_every_file_is_one_line_with_its_place_and_the_reason(tmp_path: Path) -> None:
    source = LocalFolder(tmp_path / "pictures", wanted())
    skipped = [Skipped("a.png", "too small", "it is 3x4"), Skipped("b/c.png", "not readable as an image")]
    write_skip_list(tmp_path / "list.tsv", source, skipped)
    assert (tmp_path / "list.tsv").read_text().splitlines() == [
        f"{tmp_path}/pictures/a.png\ttoo small\tit is 3x4",
        f"{tmp_path}/pictures/b/c.png\tnot readable as an image\t",
    ]


def test_tabs_line_ends_and_broken_letters_do_not_break_the_table(tmp_path: Path) -> None:
    write_table(tmp_path / "list.tsv", [("a\tb\nc.png", "x"), ("\udcff.png", "名")])
    assert (tmp_path / "list.tsv").read_text(encoding="utf-8").splitlines() == ["a b c.png\tx", "\\udcff.png\t名"]


def test_a_list_goes_when_there_is_nothing_to_tell(tmp_path: Path) -> None:
    write_table(tmp_path / "list.tsv", [])
    write_table(tmp_path / "list.tsv", [("a", "b")])
    write_table(tmp_path / "list.tsv", [])
    assert list(tmp_path.iterdir()) == []
