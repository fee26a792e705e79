"""One way to make each kind of source out of a few files: a new source is tested by a line in the table."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from csv import DictWriter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from servers import web
from servers.s3 import FAST, shared

from simpletuner.data.sections import ParquetColumns
from simpletuner.data.sources.aws import Aws, BucketFolder
from simpletuner.data.sources.base import Source, wanted
from simpletuner.data.sources.csv import CsvImages
from simpletuner.data.sources.huggingface import HuggingFace
from simpletuner.data.sources.local import LocalFolder
from simpletuner.data.sources.webshart import Webshart
from simpletuner.data.tables.catalog import Catalogued
from simpletuner.data.web.connections import is_any
from simpletuner.data.web.downloads import Downloads
from simpletuner.data.web.url_list import Columns
from simpletuner.progress import Recorded
from simpletuner.storage.local import LocalStore
from simpletuner.storage.s3_objects import Objects


@dataclass(frozen=True)
class Case:
    """A source, and what it must say."""

    source: Source
    images: Mapping[str, bytes]
    """The content that each image must have, by the key that the source gives it."""
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the source itself says about images, for those of which it says something."""
    place: Callable[[], object] = lambda: None
    """All that is where the images are, to see that it stays as it is."""


Opener = Callable[[Path, Mapping[str, bytes]], Case]
"""Puts files (images, and captions in .txt files beside them) wherever it likes, and opens a source that has them.

The folder is empty, and for the opener alone.
"""


def local(folder: Path, files: Mapping[str, bytes]) -> Case:
    """A folder on this machine."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return Case(LocalFolder(folder, wanted()), pictures(files), place=lambda: files_of(folder))


def aws(folder: Path, files: Mapping[str, bytes]) -> Case:
    """A folder in a bucket of a real S3 server."""
    server = shared()
    bucket = server.new_bucket()
    objects = Objects(server.address(bucket), FAST)
    for name, data in {**files, "../outside/x.png": files["a.png"]}.items():
        objects.write(f"photos/{name}".replace("photos/../", ""), data)
    entry = Aws(id="a", **server.entry(bucket, aws_data_prefix="photos"))
    assert isinstance(entry.open(), BucketFolder)
    return Case(entry.open(), pictures(files), place=lambda: list(objects.list("")))


def csv(folder: Path, files: Mapping[str, bytes]) -> Case:
    """A table of addresses on a real web server, which is gone once everything is downloaded."""
    images = pictures(files)
    captions = {name: files.get(str(PurePosixPath(name).with_suffix(".txt")), b"").decode() for name in images}
    table = folder / "table" / "images.csv"
    table.parent.mkdir()
    with web.running() as server, table.open("w", encoding="utf-8", newline="") as file:
        rows = DictWriter(file, ["url", "caption"])
        rows.writeheader()
        for name, data in images.items():
            rows.writerow({"url": server.serve(f"/{quote(name)}", web.content(data)), "caption": captions[name]})
        file.flush()
        source = CsvImages(table, Columns("url", "caption"), _downloads(folder), folder / "cache", id="web")
        source.prepare(Recorded())
    keys = {name: str(PurePosixPath(PurePosixPath(name).name).with_suffix(_KINDS[name[-4:]])) for name in images}
    return Case(
        source,
        {keys[name]: data for name, data in images.items()},
        {keys[name]: (caption,) if caption else () for name, caption in captions.items()},
        lambda: files_of(folder),
    )


def huggingface(folder: Path, files: Mapping[str, bytes]) -> Case:
    """A data set as the library `datasets` saves it: each image is a row."""
    import datasets

    images = pictures(files)
    texts = [files.get(str(PurePosixPath(name).with_suffix(".txt")), b"").decode() for name in images]
    cells = [{"bytes": data, "path": None} for data in images.values()]
    rows = datasets.Dataset.from_dict({"image": cells, "text": texts}).cast_column("image", datasets.Image())
    rows.save_to_disk(str(folder / "rows"))
    return Case(
        HuggingFace(id="rows", type="huggingface", dataset_name=str(folder / "rows")).open(),
        {f"{number}.jpg": data for number, data in enumerate(images.values())},
        {f"{number}.jpg": (text,) if text else () for number, text in enumerate(texts)},
        lambda: files_of(folder),
    )


def webshart(folder: Path, files: Mapping[str, bytes]) -> Case:
    """Two tar files, of which the indexes are kept elsewhere."""
    (folder / "shards").mkdir()
    halves = {"even": list(files)[::2], "odd": list(files)[1::2]}
    together = {name: half for half, names in halves.items() for name in names if name in pictures(files)}
    for half in halves:
        with tarfile.open(folder / "shards" / f"{half}.tar", "w") as tar:
            for name, data in files.items():
                if half == together.get(name, half):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    keys = {name: f"{half}/{name}" for name, half in together.items()}
    said = {name: files.get(str(PurePosixPath(name).with_suffix(".txt")), b"").decode() for name in keys}
    return Case(
        Webshart(id="s", type="webshart", source=str(folder / "shards"), cache_dir=folder / "cache").open(),
        {key: files[name] for name, key in keys.items()},
        {keys[name]: (text,) if text else () for name, text in said.items()},
        lambda: files_of(folder / "shards"),
    )


def catalogued(folder: Path, files: Mapping[str, bytes]) -> Case:
    """A folder, and a table with the captions of its images."""
    case = local(folder / "images", files)
    rows = [{"file": name, "caption": f"about {name}"} for name in case.images]
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = ParquetColumns(path=str(folder / "table.jsonl"))
    captions = {name: (f"about {name}",) for name in case.images}
    return Case(Catalogued(case.source, table), case.images, captions, lambda: files_of(folder))


def _downloads(folder: Path) -> Downloads:
    return Downloads(LocalStore(folder / "cache"), may_connect=is_any)


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file in a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def pictures(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The images among the files."""
    return {name: data for name, data in files.items() if not name.endswith((".txt", ".json"))}


_KINDS = {".png": ".png", ".jpg": ".jpg", ".JPG": ".jpg", "webp": ".webp"}

OPENERS: dict[str, Opener] = {
    "local": local,
    "aws": aws,
    "csv": csv,
    "huggingface": huggingface,
    "webshart": webshart,
    "a table beside a folder": catalogued,
}
