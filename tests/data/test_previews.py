"""Tables without the columns that are named are told before a run starts."""

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
    assert first.startswith("data set 'web' › csv_file: csv_file ")
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
        described(Path("in/the/bucket.parquet"), tmp_path) | {"id": "y"},
    )


def test_a_large_table_is_not_read_for_this(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("address\n" + 2_000_000 * "https://a\n")
    assert not told(listed(tmp_path / "list.csv", csv_caption_column="text"))
