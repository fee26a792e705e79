"""Tables joined to images: every kind of table, every way to name an image, and what does not fit."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simpletuner.data.items import Item, Size
from simpletuner.data.sections import ParquetColumns
from simpletuner.data.tables.catalog import Catalogued
from simpletuner.errors import DataError
from simpletuner.progress import Recorded, Reporter


class Listed:
    """A source that says what it was told to."""

    lanes = 3

    def __init__(self, *keys: str, root: str = "", files: Mapping[str, bytes] | None = None) -> None:
        self.keys = keys
        self.root = root
        self.files = dict(files or {})
        self.prepared: list[Reporter] = []

    def prepare(self, reporter: Reporter) -> None:
        self.prepared.append(reporter)

    def items(self) -> Iterator[Item]:
        yield from (Item(key, "v1", 100) for key in self.keys)

    def read(self, key: str) -> bytes:
        if key not in self.files:
            raise DataError(f"no {key}")
        return self.files[key]

    def open(self, key: str) -> BinaryIO:
        return BytesIO(self.read(key))

    def name(self, key: str) -> str:
        return f"{self.root}{key}"


ROWS = [
    {"id": "a", "caption": "one", "spare": "s", "w": 40, "h": 30},
    {"id": "deep/b", "caption": None, "spare": "two", "w": 50, "h": 20},
    {"id": "c", "caption": " ", "spare": None, "w": None, "h": 20},
]


def as_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def as_json_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))


def as_json(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text(json.dumps(rows))


def as_csv(path: Path, rows: Sequence[Mapping[str, object]], separator: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


KINDS = {
    "t.parquet": as_parquet,
    "t.jsonl": as_json_lines,
    "wrong name.json": as_json_lines,
    "t.json": as_json,
    "t.csv": as_csv,
    "t.tsv": lambda path, rows: as_csv(path, rows, "\t"),
}


def joined(source: Listed, path: Path, **columns: object) -> Catalogued:
    return Catalogued(source, ParquetColumns.model_validate({"path": str(path), **columns}), id="x")


def captions(catalog: Catalogued) -> dict[str, tuple[str, ...] | None]:
    return {item.key: item.captions for item in catalog.items() if not item.problem}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_table_says_the_same(tmp_path: Path, name: str) -> None:
    KINDS[name](tmp_path / name, ROWS)
    columns = {
        "fallback_caption_column": "spare",
        "caption_column": "caption",
        "width_column": "w",
        "height_column": "h",
    }
    found = list(joined(Listed("a.jpg", "deep/b.png", "c.webp"), tmp_path / name, **columns).items())
    assert [item.captions for item in found] == [("one",), ("two",), ()]
    assert [item.size for item in found] == [Size(40, 30), Size(50, 20), None]


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    for number, row in enumerate(ROWS):
        as_parquet(tmp_path / "table" / f"{number}.parquet", [{"id": row["id"], "caption": f"caption {number}"}])
    found = captions(joined(Listed("a.jpg", "deep/b.png"), tmp_path / "table"))
    assert found == {"a.jpg": ("caption 0",), "deep/b.png": ("caption 1",)}


@pytest.mark.parametrize(
    "name",
    [
        "1/a",
        "1/a.jpg",
        "./1/a.jpg",
        "1\\a.jpg",
        "/data/set/1/a.jpg",
        "/data/set/1/a",
        "a",
        "a.jpg",
        "/elsewhere/1/a.jpg",
    ],
)
def test_an_image_is_found_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    as_json_lines(tmp_path / "t.jsonl", [{"file": name, "caption": "it"}, {"file": "other", "caption": "no"}])
    catalog = joined(Listed("1/a.jpg", root="/data/set/"), tmp_path / "t.jsonl")
    assert captions(catalog) == {"1/a.jpg": ("it",)}


@pytest.mark.parametrize("name", ["\u00e9", "e\u0301", "e\u0301.png", "/data/1/e\u0301.png"])
@pytest.mark.parametrize("key", ["1/\u00e9.png", "1/e\u0301.png"])
def test_an_accent_may_be_spelled_in_two_ways(tmp_path: Path, name: str, key: str) -> None:
    as_json_lines(tmp_path / "t.jsonl", [{"file": name, "caption": "it"}, {"file": "other", "caption": "no"}])
    assert captions(joined(Listed(key, root="/data/"), tmp_path / "t.jsonl")) == {key: ("it",)}


def test_whole_paths_of_a_folder_that_has_moved_are_told_apart(tmp_path: Path) -> None:
    as_json_lines(tmp_path / "t.jsonl", [{"id": f"/old/place/{part}/a.jpg", "caption": part} for part in "12"])
    catalog = joined(Listed("1/a.jpg", "2/a.jpg", root="/new/"), tmp_path / "t.jsonl")
    assert captions(catalog) == {"1/a.jpg": ("1",), "2/a.jpg": ("2",)}


def test_a_row_about_another_folder_is_not_taken(tmp_path: Path) -> None:
    as_json_lines(
        tmp_path / "t.jsonl", [{"id": "/old/1/a.jpg", "caption": "x"}, {"id": "/old/1/b.jpg", "caption": "y"}]
    )
    catalog = joined(Listed("1/a.jpg", "2/a.jpg", "b.jpg", root="/new/"), tmp_path / "t.jsonl")
    assert captions(catalog) == {"1/a.jpg": ("x",), "b.jpg": ("y",)}


def test_a_name_that_could_be_several_files_is_nobodys(tmp_path: Path) -> None:
    as_json_lines(tmp_path / "t.jsonl", [{"id": f"/{part}/a.jpg", "caption": part} for part in "12"])
    assert captions(joined(Listed("a.jpg", root="/new/"), tmp_path / "t.jsonl")) == {}


def test_names_with_their_ending_only_when_asked(tmp_path: Path) -> None:
    as_json_lines(tmp_path / "t.jsonl", [{"id": "a", "caption": "x"}, {"id": "b.jpg", "caption": "y"}])
    catalog = joined(Listed("a.jpg", "b.jpg"), tmp_path / "t.jsonl", identifier_includes_extension=True)
    assert captions(catalog) == {"b.jpg": ("y",)}


def test_numbers_are_names_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([7.0, None, 9.0]), "caption": ["x", "?", "y"]}), tmp_path / "t.parquet")
    assert captions(joined(Listed("7.jpg", "9.jpg"), tmp_path / "t.parquet")) == {"7.jpg": ("x",), "9.jpg": ("y",)}


def test_lists_and_several_rows_hold_alternatives(tmp_path: Path) -> None:
    rows = [{"id": "a", "caption": ["x", "y", ""]}, {"id": "a", "caption": ["z"]}, {"id": "b", "caption": []}]
    as_parquet(tmp_path / "t.parquet", rows)
    assert captions(joined(Listed("a.jpg", "b.jpg"), tmp_path / "t.parquet")) == {"a.jpg": ("x", "y", "z"), "b.jpg": ()}


def test_parts_of_objects_are_named_with_a_dot(tmp_path: Path) -> None:
    as_parquet(tmp_path / "t.parquet", [{"meta": {"file": "a"}, "text": {"en": "x", "de": "y"}}])
    catalog = joined(Listed("a.jpg"), tmp_path / "t.parquet", filename_column="meta.file", caption_column="text.en")
    assert captions(catalog) == {"a.jpg": ("x",)}


def test_metadata_files_of_sd_scripts(tmp_path: Path) -> None:
    found = {
        "/data/a.png": {"caption": "a cat", "tags": "fur, tail", "image_size": [640, 480]},
        "/data/b": {"tags": "dog"},
        "c": "only text",
        "d.jpg": {"caption": "two\nlines", "tags": "t", "train_resolution": [512, 512]},
        "e.jpg": {},
    }
    (tmp_path / "meta.json").write_text(json.dumps(found))
    catalog = joined(Listed("a.png", "b.jpg", "c.webp", "d.jpg", "e.jpg", root="/data/"), tmp_path / "meta.json")
    assert captions(catalog) == {
        "a.png": ("a cat, fur, tail",),
        "b.jpg": ("dog",),
        "c.webp": ("only text",),
        "d.jpg": ("two, t", "lines, t"),
        "e.jpg": (),
    }
    assert [item.size for item in catalog.items()] == [Size(640, 480), None, None, None, None]


def test_images_without_a_row_say_so_and_caption_files_pass(tmp_path: Path) -> None:
    as_json_lines(tmp_path / "t.jsonl", ROWS)
    catalog = joined(Listed("a.jpg", "z.jpg", "z.txt"), tmp_path / "t.jsonl")
    a, z, text = catalog.items()
    assert (a.problem, a.version) == ("", "v1")
    assert z.problem == f"not in table {tmp_path / 't.jsonl'}"
    assert z.version != "v1"
    assert text == Item("z.txt", "v1", 100)


def test_a_size_from_the_table_is_part_of_the_version(tmp_path: Path) -> None:
    versions = set()
    for width in (40, 50):
        as_json_lines(tmp_path / "t.jsonl", [{"id": "a", "w": width, "h": 30}])
        catalog = joined(Listed("a.jpg"), tmp_path / "t.jsonl", width_column="w", height_column="h")
        versions |= {item.version for item in catalog.items()}
    assert len(versions) == 2


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    as_json_lines(tmp_path / "t.jsonl", ROWS)
    catalog = joined(Listed("a.jpg", "1/c.jpg", "2/c.jpg"), tmp_path / "t.jsonl")
    recorded = Recorded()
    catalog.tell(recorded)
    assert recorded.texts() == []
    list(catalog.items())
    catalog.tell(recorded)
    first, second = recorded.texts()
    assert first == f"data set 'x': 1 row of table {tmp_path / 't.jsonl'} belongs to no image: deep/b"
    assert second.startswith("data set 'x': 1 image shares a row of table")


def test_wrong_columns_are_told_at_once_with_those_there_are(tmp_path: Path) -> None:
    as_json_lines(tmp_path / "t.jsonl", ROWS)
    wrong = {"filename_column": "nix", "caption_column": "none.such", "width_column": "w"}
    catalog = joined(Listed("a.jpg"), tmp_path / "t.jsonl", **wrong)
    told = "has no filename_column 'nix' and no caption_column 'none.such'; its columns are id, caption, spare, w, h"
    with pytest.raises(DataError, match=told):
        catalog.prepare(Recorded())


def test_a_table_without_usual_columns_asks_for_them(tmp_path: Path) -> None:
    as_json_lines(tmp_path / "t.jsonl", [{"x": 1}])
    with pytest.raises(DataError, match="needs a filename_column: none with a usual name is there; its columns are x"):
        list(joined(Listed("a.jpg"), tmp_path / "t.jsonl").items())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.parquet", b"PAR1 and nothing", "cannot be read"),
        ("t.jsonl", b'{"id": 1}\n{', "cannot be read"),
        ("t.jsonl", b'{"id": 1}\n\n{', r"line 3 is not JSON \(.*\)\. Correct that line\.$"),
        ("t.jsonl", b'{"id": 1}\n"a"\n', r"line 2 is no JSON object with names and values\. Correct that line\.$"),
        ("t.json", b"[1, 2]\n{", "cannot be read"),
        ("t.json", b'[{"id": 1},\n{"id": }]', r"line 2 is not JSON \(.* at character 8\)\. Correct that line\.$"),
        ("t.json", b'{"id": 1}\n{"id": }', r"line 2 is not JSON \(.* at character 8\)\. Correct that line\.$"),
        ("t.json", b"[1, 2]", "neither a list of objects"),
        ("t.csv", b"id,caption\na,b,c\n", "line 2 has more cells"),
        ("t.xlsx", b"PK", "is none of the kinds that can be read: .parquet"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told) as error:
        list(joined(Listed("a.jpg"), tmp_path / name).items())
    assert str(tmp_path / name) in str(error.value)


def test_a_folder_that_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(DataError, match=r"is a folder without Parquet files; name the table itself in path\.$"):
        list(joined(Listed("a.jpg"), tmp_path / "t").items())


def test_a_table_may_stand_beside_the_images(tmp_path: Path) -> None:
    as_parquet(tmp_path / "t.parquet", ROWS)
    source = Listed("a.jpg", files={"meta/t.parquet": (tmp_path / "t.parquet").read_bytes()})
    assert captions(joined(source, Path("meta/t.parquet"))) == {"a.jpg": ("one",)}
    with pytest.raises(DataError, match=r"no table nowhere\.parquet, neither on this machine nor in s3://b/"):
        list(joined(Listed(root="s3://b/"), Path("nowhere.parquet")).items())


def test_the_rest_is_that_of_the_source(tmp_path: Path) -> None:
    as_json_lines(tmp_path / "t.jsonl", ROWS)
    source = Listed("a.jpg", root="/data/", files={"a.jpg": b"bytes"})
    catalog, recorded = joined(source, tmp_path / "t.jsonl"), Recorded()
    catalog.prepare(recorded)
    assert source.prepared == [recorded]
    assert (catalog.lanes, catalog.read("a.jpg"), catalog.name("a.jpg")) == (3, b"bytes", "/data/a.jpg")
    assert catalog.open("a.jpg").read() == b"bytes"
