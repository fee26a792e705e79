"""Data sets on the Hub, through the real client and a small Hub: rows that are downloaded, shards that are not."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import hub_data
from servers.hub_data import DataHub

from data.sources.drawn import picture

datasets = pytest.importorskip("datasets")

# The client reads the address of the Hub when it is imported, so it needs a process of its own.
LOOK = """
import json, sys
from simpletuner.data.sources import SOURCES
from simpletuner.errors import DataError
from simpletuner.progress import Recorded

def look(entry):
    try:
        source = SOURCES.section_for(entry).model_validate(entry).open()
        source.prepare(Recorded())
        items = list(source.items())
        read = {item.key: source.read(item.key).hex() for item in items if not item.problem}
        return [[[item.key, item.captions, item.version] for item in items], read]
    except DataError as error:
        return str(error)

print(json.dumps([look(entry) for entry in json.load(sys.stdin)]))
"""


def parquet() -> bytes:
    rows = {"image": [{"bytes": picture(n), "path": None} for n in range(3)], "text": ["a", "b", "c"]}
    buffer = io.BytesIO()
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(buffer)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as shard:
        for name, data in {"1.bmp": LARGE, "1.txt": b"large", "2.jpg": picture(2)}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def page(**said: object) -> bytes:
    """A README with such a head."""
    return f"---\n{json.dumps(said)}\n---\n# Pictures\n".encode()


LARGE = picture(1, (1500, 1500), "BMP")


@pytest.fixture(scope="module")
def hub() -> Iterator[DataHub]:
    rows = {"data/train-00000-of-00001.parquet": parquet(), "README.md": b"---\nlicense: mit\n---\n"}
    features = [
        {"name": "photo", "dtype": "image"},
        {"name": "about", "struct": [{"name": "en", "dtype": "string"}]},
        {"name": "tags", "list": "string"},
    ]
    splits = [{"split": "train", "path": "data/train-*"}]
    configs = [{"config_name": "small", "data_files": splits, "default": True}, {"config_name": "large"}]
    infos = [{"config_name": "small", "features": features}, {"config_name": "large", "features": features[:1]}]
    repositories = {
        **{"me/rows": rows, "me/shards": {"part/s-0.tar": tar(), "other.tar": b""}, "me/gated": rows},
        "me/described": {**rows, "README.md": page(configs=configs, dataset_info=infos)},
        "me/two": {**rows, "README.md": page(configs=[{"config_name": "a"}, {"config_name": "b"}])},
        "me/silent": rows,
        "me/photos": {"a.png": LARGE, "metadata.jsonl": b"{}"},
    }
    with hub_data.running(repositories, frozenset({"me/gated"})) as running:
        yield running


def looked(hub: DataHub, home: Path, *entries: dict[str, object]) -> list[object]:
    named = [{"id": str(number), **entry} for number, entry in enumerate(entries)]
    environment = {**os.environ, **hub.environment(str(home))}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", LOOK], input=json.dumps(named), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_rows_are_downloaded_once(hub: DataHub, tmp_path: Path) -> None:
    entry = {"type": "huggingface", "dataset_name": "me/rows", "cache_dir": str(tmp_path / "cache")}
    (first,) = looked(hub, tmp_path, entry)
    items, read = first
    assert [(key, captions) for key, captions, _ in items] == [("0.jpg", ["a"]), ("1.jpg", ["b"]), ("2.jpg", ["c"])]
    assert [bytes.fromhex(data) for data in read.values()] == [picture(n) for n in range(3)]
    sent = hub.sent.total()
    assert looked(hub, tmp_path, entry) == [first]
    assert hub.sent.total() - sent < 1000


def test_of_shards_only_parts_travel(hub: DataHub, tmp_path: Path) -> None:
    entry = {"type": "webshart", "source": "me/shards", "subfolder": "part", "cache_dir": str(tmp_path / "cache")}
    hub.sent.clear()
    (first,) = looked(hub, tmp_path, entry)
    items, read = first
    assert [(key, captions) for key, captions, _ in items] == [("part/s-0/1.bmp", ["large"]), ("part/s-0/2.jpg", [])]
    assert bytes.fromhex(read["part/s-0/1.bmp"]) == LARGE
    assert hub.sent.total() < len(LARGE) + 600_000
    assert looked(hub, tmp_path, entry) == [first]


def test_what_cannot_be_had_is_told(hub: DataHub, tmp_path: Path) -> None:
    found = looked(
        hub,
        tmp_path,
        {"type": "huggingface", "dataset_name": "me/nothing"},
        {"type": "huggingface", "dataset_name": "me/gated"},
        {"type": "huggingface", "dataset_name": "me/rows", "split": "dev"},
        {"type": "huggingface", "dataset_name": "me/rows", "revision": "v9"},
        {"type": "huggingface", "dataset_name": "me/described", "image_column": "picture"},
        {"type": "webshart", "source": "me/nothing"},
        {"type": "webshart", "source": "me/gated"},
        {"type": "webshart", "source": "me/shards", "subfolder": "none"},
    )
    parts = [
        ("me/nothing (train) cannot be loaded", "Check dataset_name"),
        ("me/gated (train) cannot be loaded", "Accept its licence"),
        ("me/rows (dev) cannot be loaded", "Change split"),
        ("me/rows (train) cannot be loaded", "v9"),
        ("me/described (train) has no column 'picture'",),
        ("me/nothing is not on the Hub", "check its name"),
        ("me/gated is gated", "accept its licence"),
        ("me/shards has no folder 'none'", "Change subfolder"),
    ]
    for message, told in zip(found, parts, strict=True):
        assert isinstance(message, str) and all(part in message for part in told), message
    assert hub.sent["me/described/data/train-00000-of-00001.parquet"] == 0


CHECK = """
import json, sys
from simpletuner.data.entries import read_entries
from simpletuner.data.options import DataDefaults
from simpletuner.data.previews import wrong_rows

entries, wrong = read_entries(json.load(sys.stdin))
problems, notes = wrong_rows(entries, DataDefaults())
print(json.dumps([[str(one) for one in (*wrong, *problems)], notes, "datasets" in sys.modules, "torch" in sys.modules]))
"""


def checked(hub: DataHub, home: Path, *entries: dict[str, object]) -> tuple[list[str], list[str]]:
    """What the check says of data sets, without loading the library."""
    named = [{"id": str(number), "type": "huggingface", **entry} for number, entry in enumerate(entries)]
    environment = {**os.environ, **hub.environment(str(home))}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", CHECK], input=json.dumps(named), env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    problems, notes, *loaded = json.loads(done.stdout)
    assert loaded == [False, False]
    return problems, notes


def test_wrong_columns_are_told_without_fetching_a_row(hub: DataHub, tmp_path: Path) -> None:
    hub.sent.clear()
    problems, notes = checked(
        hub,
        tmp_path,
        {"dataset_name": "me/rows", "image_column": "picture"},
        {"dataset_name": "me/rows", "caption_column": "caption"},
        {"dataset_name": "me/described", "image_column": "tags"},
        {"dataset_name": "me/described", "caption_column": "about.de"},
        {"dataset_name": "me/described", "subset": "large", "huggingface": {"width_column": "w"}},
    )
    assert notes == []
    assert problems == [
        "data set '0' › dataset_name: me/rows (train) has no column 'picture' for image_column; its columns "
        "are image, text",
        "data set '1' › dataset_name: me/rows (train) has no column 'caption' for caption_column; its "
        "columns are image, text",
        "data set '2' › dataset_name: me/described (train) holds no images in column 'tags'. The columns "
        "with images are photo",
        "data set '3' › dataset_name: me/described (train) has no column 'about.de' for caption_column; its "
        "columns are photo, about, tags",
        "data set '4' › dataset_name: me/described (train) has no column 'w' for width_column; its columns are photo",
    ]
    assert hub.sent["me/described/data/train-00000-of-00001.parquet"] == 0


def test_wrong_places_on_the_hub_are_told(hub: DataHub, tmp_path: Path) -> None:
    problems, _ = checked(
        hub,
        tmp_path,
        {"dataset_name": "me/nothing"},
        {"dataset_name": "me/gated"},
        {"dataset_name": "me/rows", "revision": "v9"},
        {"dataset_name": "me/described", "subset": "huge"},
        {"dataset_name": "me/described", "split": "train+dev"},
        {"dataset_name": "me/two"},
    )
    parts = [
        "it is not on the Hub, or not open to you",
        "it is gated. Accept its licence",
        "it has no revision 'v9'",
        "has no subset 'huge', only small, large",
        "it has no split 'dev', only train",
        "has several subsets: a, b. Choose one of them with subset",
    ]
    for problem, part in zip(problems, parts, strict=True):
        assert part in problem


def test_what_is_right_or_cannot_be_told_passes(hub: DataHub, tmp_path: Path) -> None:
    assert checked(
        hub,
        tmp_path,
        {"dataset_name": "me/rows", "image_column": "image", "caption_column": "text", "split": "train[:10%]"},
        {"dataset_name": "me/described", "caption_column": ["about.en", "tags"]},
        {"dataset_name": "me/photos", "caption_column": "anything"},
        {"dataset_name": "me/nothing", "probability": 0},
    ) == ([], [])


def test_a_hub_that_does_not_answer_is_a_note(hub: DataHub, tmp_path: Path) -> None:
    hub.silent.add("me/silent")
    problems, notes = checked(hub, tmp_path, {"dataset_name": "me/silent", "image_column": "picture"})
    assert problems == []
    assert len(notes) == 1 and notes[0].startswith("me/silent could not be looked up on the Hub: ")
