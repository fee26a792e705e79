"""What images look like is kept by content: a second report opens only what is new."""

import shutil
from pathlib import Path

import pytest

from simpletuner.data.dataset import Dataset
from simpletuner.data.report.looks import look_through
from simpletuner.progress import Recorded, StageStarted
from tests.data.folders import folder, opened, save

SIZES = {"a.png": (96, 64), "b.png": (64, 64), "c.jpg": (128, 96)}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder(tmp_path / "images", SIZES)
    return again(tmp_path)


def again(root: Path) -> Dataset:
    (dataset,) = opened({"id": "a", "instance_data_dir": str(root / "images")}, cache=root / "cache")
    return dataset


def looked_at(dataset: Dataset, path: Path) -> int:
    """How many images were opened."""
    recorded = Recorded()
    look_through([dataset], path, recorded)
    return sum(event.total for event in recorded.events if isinstance(event, StageStarted))


def test_a_second_look_opens_nothing_and_says_the_same(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "looks.parquet"
    first = look_through([dataset], path, Recorded())
    assert set(first.looks) == set(dataset.records.digests())
    assert looked_at(dataset, path) == 0
    assert look_through([dataset], path, Recorded()) == first


def test_only_new_content_is_opened(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "looks.parquet"
    assert looked_at(dataset, path) == 3
    save(tmp_path / "images" / "d.png", (64, 64), seed=9)
    shutil.copy(tmp_path / "images" / "a.png", tmp_path / "images" / "copy.png")
    assert looked_at(again(tmp_path), path) == 1


def test_an_image_that_cannot_be_decoded_is_named_once_and_remembered(tmp_path: Path) -> None:
    folder(tmp_path / "images", SIZES)
    whole = (tmp_path / "images" / "c.jpg").read_bytes()
    (tmp_path / "images" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    dataset, path = again(tmp_path), tmp_path / "looks.parquet"
    seen = look_through([dataset], path, Recorded())
    (reason,) = seen.damaged.values()
    assert "damaged" in reason and "cut.jpg" not in reason
    assert len(seen.looks) == 3
    assert looked_at(dataset, path) == 0


@pytest.mark.parametrize("content", [b"", b"not a table"])
def test_a_damaged_file_is_made_anew(dataset: Dataset, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "looks.parquet"
    path.write_bytes(content)
    assert looked_at(dataset, path) == 3
    assert looked_at(dataset, path) == 0
