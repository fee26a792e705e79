"""Rows of data sets: saved by `datasets`, as Parquet, as a folder with images."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.sources.drawn import picture
from simpletuner.data.items import Item, Size
from simpletuner.data.sources.huggingface import HuggingFace
from simpletuner.data.sources.rows.source import Rows
from simpletuner.errors import DataError
from simpletuner.progress import Recorded

datasets = pytest.importorskip("datasets")


ROWS = {
    "image": [picture(0), picture(1, (64, 64), "PNG"), picture(2)],
    "caption": ["a cat", " ", None],
    "spare": ["not used", "a spare", None],
    "long": ["", "", "a long text"],
    "tags": [["one", "two"], ["three"], []],
    "about": [{"en": "a cat", "score": 7.5}, {"en": "a dog", "score": 4.0}, {"en": "a fox", "score": None}],
    "kind": [1, 0, 1],
    "collection": ["photo", "photo", "drawing"],
    "width": [48, 64, 48],
    "height": [32, 64, 32],
    "score": [9.0, 1.0, 5.0],
}


def rows_of(**columns: list[object]):
    found = {name: cells if name != "image" else [_cell(cell) for cell in cells] for name, cells in columns.items()}
    return datasets.Dataset.from_dict(found).cast_column("image", datasets.Image())


def _cell(cell: object) -> object:
    return {"bytes": cell, "path": None} if isinstance(cell, bytes) else cell


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "saved"
    made = rows_of(**ROWS).cast_column("kind", datasets.ClassLabel(names=["a dog", "a cat"]))
    made.save_to_disk(str(folder))
    return folder


def opened(folder: Path | str, **options: object) -> Rows:
    entry = HuggingFace.model_validate({"id": "h", "type": "huggingface", "dataset_name": str(folder), **options})
    return entry.open()


def listed(folder: Path | str, **options: object) -> list[Item]:
    return list(opened(folder, **options).items())


def test_each_row_is_a_file_with_the_bytes_that_were_put_in(saved: Path) -> None:
    source = opened(saved)
    items = list(source.items())
    assert [item.key for item in items] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [source.read(item.key) for item in items] == ROWS["image"]
    assert [item.size_bytes for item in items] == [len(data) for data in ROWS["image"]]
    with source.open("1.jpg") as file:
        assert file.read(4) == b"\x89PNG"


def test_the_caption_column_is_found_when_nobody_names_it(saved: Path) -> None:
    assert [item.captions for item in listed(saved)] == [("a cat",), (), ()]


@pytest.mark.parametrize(
    ("options", "captions"),
    [
        ({"fallback_caption_column": "spare"}, [("a cat",), ("a spare",), ()]),
        (
            {"fallback_caption_column": "spare", "description_column": "long"},
            [("a cat",), ("a spare",), ("a long text",)],
        ),
        ({"caption_column": "tags"}, [("one", "two"), ("three",), ()]),
        ({"caption_column": "about.en"}, [("a cat",), ("a dog",), ("a fox",)]),
        ({"caption_column": ["caption", "tags"]}, [("a cat", "one", "two"), ("three",), ()]),
        ({"caption_column": "kind"}, [("a cat",), ("a dog",), ("a cat",)]),
    ],
)
def test_captions_come_from_columns(saved: Path, options: dict[str, object], captions: list[tuple[str, ...]]) -> None:
    assert [item.captions for item in listed(saved, huggingface=options)] == captions


def test_sizes_come_from_columns_and_are_unknown_without(saved: Path) -> None:
    columns = {"width_column": "width", "height_column": "height"}
    assert [item.size for item in listed(saved, huggingface=columns)] == [Size(48, 32), Size(64, 64), Size(48, 32)]
    assert [item.size for item in listed(saved)] == [None, None, None]


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({"collection": "photo"}, ["0.jpg", "1.jpg"]),
        ({"collection": ["drawing", "film"]}, ["2.jpg"]),
        ({"quality_thresholds": {"score": 5}}, ["0.jpg", "2.jpg"]),
        ({"quality_thresholds": {"score": 5}, "quality_column": "about"}, ["0.jpg"]),
        ({"quality_thresholds": {"any": 5}, "quality_column": "score"}, ["0.jpg", "2.jpg"]),
        ({"min_width": 50}, ["1.jpg"]),
        ({"min_height": 33, "collection": "photo"}, ["1.jpg"]),
    ],
)
def test_filter_func_leaves_rows_out_and_says_why(saved: Path, chosen: dict[str, object], kept: list[str]) -> None:
    items = listed(saved, huggingface={"filter_func": chosen})
    assert [item.key for item in items if not item.problem] == kept
    assert all(item.problem.startswith("left out by filter_func: ") for item in items if item.key not in kept)
    assert len(items) == 3


def test_a_row_has_another_version_when_a_filter_begins_to_leave_it_out(saved: Path) -> None:
    before, after = listed(saved), listed(saved, huggingface={"filter_func": {"collection": "photo"}})
    assert [a.version == b.version for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_versions_hold_until_the_data_set_changes(saved: Path, tmp_path: Path) -> None:
    first = {item.version for item in listed(saved)}
    assert first == {item.version for item in listed(saved)}
    assert len(first) == 3
    rows_of(image=[picture(5)], caption=["x"]).save_to_disk(str(tmp_path / "other"))
    before = listed(tmp_path / "other")[0].version
    rows_of(image=[picture(6)], caption=["x"]).save_to_disk(str(tmp_path / "other"))
    assert listed(tmp_path / "other")[0].version != before


def test_one_picture_is_cut_out_of_several_side_by_side(tmp_path: Path) -> None:
    wide = Image.new("RGB", (90, 20))
    for number, colour in enumerate(["red", "green", "blue"]):
        wide.paste(colour, (30 * number, 0, 30 * number + 30, 20))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    rows_of(image=[buffer.getvalue()], w=[90], h=[20]).save_to_disk(str(tmp_path / "wide"))
    columns = {"width_column": "w", "height_column": "h"}
    composite = {"enabled": True, "image_count": 3, "select_index": 1}
    source = opened(tmp_path / "wide", huggingface={**columns, "composite_image_config": composite})
    (item,) = source.items()
    found = Image.open(source.open(item.key))
    assert item.size == found.size == (30, 20)
    assert found.getcolors() == [(600, (0, 128, 0))]
    assert item.version != listed(tmp_path / "wide")[0].version


def test_a_folder_of_parquet_files_needs_no_conversion(tmp_path: Path) -> None:
    rows_of(**ROWS).to_parquet(tmp_path / "data" / "train-00000.parquet")
    before = sorted((tmp_path / "data").iterdir())
    for name in (tmp_path / "data", tmp_path / "data" / "train-00000.parquet"):
        source = opened(name, cache_dir=str(tmp_path / "cache"))
        assert [source.read(item.key) for item in source.items()] == ROWS["image"]
    assert sorted((tmp_path / "data").iterdir()) == before


def test_a_folder_with_images_and_a_metadata_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / f"{name}.png").write_bytes(picture(ord(name), kind="PNG"))
    lines = [json.dumps({"file_name": f"{name}.png", "text": f"picture {name}"}) for name in "ab"]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(lines))
    source = opened(tmp_path / "data", cache_dir=str(tmp_path / "cache"))
    items = list(source.items())
    assert [item.captions for item in items] == [("picture a",), ("picture b",)]
    assert source.read("1.jpg") == (tmp_path / "data" / "b.png").read_bytes()
    assert items[0].size_bytes == (tmp_path / "data" / "a.png").stat().st_size
    (tmp_path / "data" / "a.png").unlink()
    with pytest.raises(DataError, match=r"0.jpg: cannot read its file .*a\.png"):
        source.read("0.jpg")


def test_a_split_of_a_data_set_without_splits_is_told(saved: Path) -> None:
    with pytest.raises(DataError, match=r"without splits, so there is no split 'dev'\. Change split"):
        listed(saved, split="dev")


def test_several_splits_in_one_folder(tmp_path: Path) -> None:
    parts = {"train": rows_of(image=[picture(1)]), "test": rows_of(image=[picture(2), picture(3)])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    assert len(listed(tmp_path / "both")) == 1
    assert len(listed(tmp_path / "both", split="test")) == 2
    with pytest.raises(DataError, match=r"no split 'dev', only train, test\. Change split"):
        listed(tmp_path / "both", split="dev")


def test_a_row_without_an_image_says_so(tmp_path: Path) -> None:
    rows_of(image=[picture(1), None], caption=["a", "b"]).save_to_disk(str(tmp_path / "holes"))
    assert [item.problem for item in listed(tmp_path / "holes")] == ["", "its row holds no image"]


def test_images_are_known_without_the_marks_of_the_library(tmp_path: Path) -> None:
    cells = pa.array([{"bytes": data} for data in ROWS["image"]], pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"picture": cells, "json": [{"prompt": "x"}] * 3}), tmp_path / "t.parquet")
    source = opened(tmp_path / "t.parquet", cache_dir=str(tmp_path / "cache"))
    assert [source.read(item.key) for item in source.items()] == ROWS["image"]
    assert {item.captions for item in source.items()} == {("x",)}


def test_bare_bytes_are_images_too(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"jpg": ROWS["image"], "txt": ["a", "b", "c"]}).save_to_disk(str(tmp_path / "bytes"))
    source = opened(tmp_path / "bytes", huggingface={"caption_column": "txt", "filter_func": {"min_width": 50}})
    assert [(item.captions, bool(item.problem)) for item in source.items()] == [
        (("a",), True),
        (("b",), False),
        (("c",), True),
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"image_column": "picture"},
            "has no column 'picture' for image_column; its columns are image, caption, spare",
        ),
        ({"image_column": "caption"}, r"holds no images in column 'caption'\. The columns with images are image\."),
        (
            {"caption_column": "txt", "huggingface": {"width_column": "w"}},
            "has no column 'w' for width_column and no column 'txt' for caption_column; its columns",
        ),
        ({"huggingface": {"description_column": "d"}}, "has no column 'd' for description_column; its columns"),
        ({"huggingface": {"filter_func": {"quality_thresholds": {"nice": 1}}}}, "has no column 'nice' for filter_func"),
        (
            {"huggingface": {"quality_column": "about", "filter_func": {"quality_thresholds": {"nice": 1}}}},
            "has no column 'about.nice'",
        ),
    ],
)
def test_a_wrong_column_is_told_with_the_columns_there_are(saved: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        opened(saved, **options).prepare(Recorded())


def test_a_missing_folder_and_a_wrong_split_are_told(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere \(train\) cannot be loaded: there is no such folder\. Check"):
        listed(tmp_path / "nowhere")
    rows_of(image=[picture(1)]).to_parquet(tmp_path / "one" / "train.parquet")
    with pytest.raises(DataError, match=r"Unknown split \"dev\".*Change split"):
        listed(tmp_path / "one", split="dev", cache_dir=str(tmp_path / "cache"))


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1 nothing else")
    with pytest.raises(DataError, match=r"cannot be loaded: .*[Pp]arquet"):
        listed(tmp_path / "bad", cache_dir=str(tmp_path / "cache"))


def test_nothing_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    assert opened(tmp_path / "nowhere").name("") == f"{tmp_path / 'nowhere'} (train)"


def test_a_cut_that_does_not_exist_is_refused() -> None:
    config = {"enabled": True, "image_count": 2, "select_index": 2}
    with pytest.raises(ValueError, match="must be at most 1"):
        opened("owner/name", huggingface={"composite_image_config": config})
