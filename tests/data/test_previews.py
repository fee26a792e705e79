"""Tables without the columns that are named are told before a run starts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simpletuner.data.entries import read_entries
from simpletuner.data.options import DataDefaults
from simpletuner.data.previews import wrong_tables


def told(*raw: dict[str, Any]) -> list[str]:
    entries, _ = read_entries(list(raw))
    return [str(problem) for problem in wrong_tables(entries, DataDefaults())]


def listed(table: Path, **options: Any) -> dict[str, Any]:
    return {"id": "web", "type": "csv", "csv_file": str(table), "csv_cache_dir": "downloads", **options}


def described(table: Path, folder: Path, **columns: Any) -> dict[str, Any]:
    place = {"id": "x", "instance_data_dir": str(folder), "metadata_backend": "parquet"}
    return {**place, "parquet": {"path": str(table), **columns}}


def test_columns_that_are_missing_are_told_for_all_data_sets_at_once(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,text\n")
    pq.write_table(pa.table({"file": ["a.png"], "text": ["a"]}), tmp_path / "t.parquet")
    first, second = told(
        listed(tmp_path / "list.csv", csv_caption_column="caption"),
        described(tmp_path / "t.parquet", tmp_path, filename_column="fil"),
    )
    assert first.startswith(f"data set 'web' › csv_file: {tmp_path}")
    assert "no column for csv_caption_column 'caption'" in first
    assert second == (
        f"data set 'x' › parquet: table {tmp_path}/t.parquet has no filename_column 'fil'; its columns are file, text"
    )


def test_tables_that_are_right_or_not_on_this_machine_pass(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,text\n")
    (tmp_path / "t.jsonl").write_text('{"file": "a.png"}')
    assert not told(
        listed(tmp_path / "list.csv", csv_caption_column="text"),
        described(tmp_path / "t.jsonl", tmp_path, filename_column="file"),
        described(Path("in/the/bucket.parquet"), tmp_path) | {"id": "y", "type": "aws", "aws_bucket_name": "b"},
    )


def test_tables_that_are_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "inside.jsonl").write_text('{"file": "a.png"}')
    first, second = told(
        listed(tmp_path / "list.csv", csv_caption_column="text"),
        described(Path("t.parquet"), tmp_path),
        described(Path("inside.jsonl"), tmp_path) | {"id": "y"},
    )
    assert f"› csv_file: cannot read {tmp_path}/list.csv: no such file" in first
    assert f"› parquet: there is no table t.parquet, neither on this machine nor in {tmp_path}" in second


def test_a_table_without_names_or_without_the_captions_that_are_wanted_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,words\na.png,red\n")
    (tmp_path / "nameless.csv").write_text("words\nred\n")
    captions = {"caption_strategy": "parquet"}
    assert told(
        described(tmp_path / "t.csv", tmp_path) | captions,
        described(tmp_path / "t.csv", tmp_path) | captions | {"id": "y", "caption_fallback": "a thing"},
        described(tmp_path / "t.csv", tmp_path) | {"id": "z"},
        described(tmp_path / "nameless.csv", tmp_path) | {"id": "n"},
    ) == [
        f"data set 'x' › parquet: table {tmp_path}/t.csv needs a caption_column: none with a usual name is there; its "
        "columns are file, words",
        f"data set 'n' › parquet: table {tmp_path}/nameless.csv needs a filename_column: none with a usual name is "
        "there; its columns are words",
    ]


def test_a_large_table_is_not_read_for_this(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("address\n" + 2_000_000 * "https://a\n")
    assert not told(listed(tmp_path / "list.csv", csv_caption_column="text"))


def test_rows_on_this_machine_are_looked_at_without_their_library(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for name in ("rows/train.parquet", "mixed/train.parquet"):
        (tmp_path / name).parent.mkdir()
        pq.write_table(pa.table({"photo": image, "text": ["a"]}), tmp_path / name)
    (tmp_path / "mixed" / "a.png").write_bytes(b"")
    saved = {"features": {"photo": {"_type": "Image"}, "about": {"en": {"dtype": "string", "_type": "Value"}}}}
    (tmp_path / "saved" / "train").mkdir(parents=True)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "saved" / "train" / "dataset_info.json").write_text(json.dumps(saved))

    def rows(id: str, name: str, **options: Any) -> dict[str, Any]:
        return {"id": id, "type": "huggingface", "dataset_name": str(tmp_path / name), **options}

    places = [
        rows("a", "rows", image_column="image"),
        rows("b", "rows/train.parquet", caption_column="txt"),
        rows("c", "saved", caption_column="about.de"),
        rows("d", "saved", split="dev"),
        rows("e", "saved"),
        rows("f", "saved", caption_strategy="filename"),
        rows("g", "nowhere"),
        rows("right", "saved", caption_column="about.en"),
        rows("unclear", "mixed", image_column="image"),
    ]
    no = "(train) has no column"
    assert [one.replace(f"{tmp_path}/", "").partition(" › dataset_name: ")[2] for one in told(*places)] == [
        f"rows {no} 'image' for image_column; its columns are photo, text",
        f"rows/train.parquet {no} 'txt' for caption_column; its columns are photo, text",
        f"saved {no} 'about.de' for caption_column; its columns are photo, about",
        "saved (dev) cannot be loaded: it has no split 'dev', only train. Change split",
        "saved (train) needs a caption_column: none with a usual name is there; its columns are photo, about",
        "nowhere (train) cannot be loaded: there is no such folder. Check dataset_name",
    ]
