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

def look(entry):
    try:
        source = SOURCES.section_for(entry).model_validate(entry).open()
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


LARGE = picture(1, (1500, 1500), "BMP")


@pytest.fixture(scope="module")
def hub() -> Iterator[DataHub]:
    rows = {"data/train-00000-of-00001.parquet": parquet(), "README.md": b"---\nlicense: mit\n---\n"}
    repositories = {"me/rows": rows, "me/shards": {"part/s-0.tar": tar(), "other.tar": b""}, "me/gated": rows}
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
    entry = {"type": "huggingface", "dataset_name": "me/rows"}
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
        {"type": "webshart", "source": "me/nothing"},
        {"type": "webshart", "source": "me/gated"},
        {"type": "webshart", "source": "me/shards", "subfolder": "none"},
    )
    parts = [
        ("me/nothing (train) cannot be loaded", "Check dataset_name"),
        ("me/gated (train) cannot be loaded", "Accept its licence"),
        ("me/rows (dev) cannot be loaded", "Change split"),
        ("me/rows (train) cannot be loaded", "v9"),
        ("me/nothing is not on the Hub", "check its name"),
        ("me/gated is gated", "accept its licence"),
        ("me/shards has no folder 'none'", "Change subfolder"),
    ]
    for message, told in zip(found, parts, strict=True):
        assert isinstance(message, str) and all(part in message for part in told), message
