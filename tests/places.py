"""One data set in each place that images can be in, for runs over all of them; and the same ones as plain folders."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from csv import DictWriter
from pathlib import Path
from typing import Any, NamedTuple

import house
from servers.s3 import FAST, S3Server
from servers.web import Web, content

from simpletuner.storage.s3_objects import Objects

Entry = dict[str, Any]


class Picture(NamedTuple):
    """An image file and its caption."""

    image: bytes
    caption: str


def pictures(folder: Path, count: int, *, seed: int) -> dict[str, Picture]:
    """Drawn pictures by their names."""
    house.draw_pictures(folder, count, seed=seed)
    return {path.name: Picture(path.read_bytes(), _caption(path)) for path in sorted(folder.glob("*.png"))}


def _caption(path: Path) -> str:
    return path.with_suffix(".txt").read_text()


def entry(id: str, kind: str, **options: Any) -> Entry:
    """What all entries of the data file have in common."""
    return {"id": id, "type": kind, "resolution": 64, "resolution_type": "pixel", **options}


def local(folder: Path, id: str, files: Mapping[str, Picture]) -> Entry:
    """A folder with text files beside the images."""
    for name, picture in files.items():
        path = folder / id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.image)
        path.with_suffix(".txt").write_text(picture.caption)
    return entry(id, "local", instance_data_dir=str(folder / id), caption_strategy="textfile")


def aws(server: S3Server, bucket: str, id: str, files: Mapping[str, Picture], **options: Any) -> Entry:
    """A folder in a bucket with text files beside the images."""
    objects = Objects(server.address(bucket), FAST)
    for name, picture in files.items():
        objects.write(f"photos/{name}", picture.image)
        objects.write(f"photos/{Path(name).with_suffix('.txt')}", picture.caption.encode())
    place = server.entry(bucket, aws_data_prefix="photos")
    return entry(id, "aws", caption_strategy="textfile", **{**place, **options})


def csv(folder: Path, server: Web, id: str, files: Mapping[str, Picture], **options: Any) -> Entry:
    """A table of addresses on a web server."""
    table = folder / f"{id}.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = DictWriter(file, ["url", "caption"])
        rows.writeheader()
        for name, picture in files.items():
            url = server.serve(f"/{id}/{name}", content(picture.image))
            rows.writerow({"url": url, "caption": picture.caption})
    where = {"csv_file": str(table), "csv_cache_dir": str(folder / "downloads"), "csv_caption_column": "caption"}
    return entry(id, "csv", caption_strategy="csv", csv_allow_private_addresses=True, **{**where, **options})


def huggingface(folder: Path, id: str, files: Mapping[str, Picture]) -> Entry:
    """A data set that the library `datasets` has saved; its images are called 0.jpg, 1.jpg and so on."""
    import datasets

    cells = [{"bytes": picture.image, "path": None} for picture in files.values()]
    texts = [picture.caption for picture in files.values()]
    rows = datasets.Dataset.from_dict({"image": cells, "text": texts}).cast_column("image", datasets.Image())
    rows.save_to_disk(str(folder / id))
    return entry(id, "huggingface", dataset_name=str(folder / id), caption_strategy="huggingface")


def webshart(folder: Path, id: str, files: Mapping[str, Picture]) -> Entry:
    """One tar file called part.tar, with text files beside the images."""
    (folder / id).mkdir(parents=True)
    with tarfile.open(folder / id / "part.tar", "w") as tar:
        for name, picture in files.items():
            _add(tar, name, picture.image)
            _add(tar, str(Path(name).with_suffix(".txt")), picture.caption.encode())
    return entry(id, "webshart", source=str(folder / id), caption_strategy="webshart")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def table(folder: Path, id: str, files: Mapping[str, Picture]) -> Entry:
    """A folder without text files, and a Parquet table with the captions and sizes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / id).mkdir(parents=True)
    for name, picture in files.items():
        (folder / id / name).write_bytes(picture.image)
    names, texts = list(files), [picture.caption for picture in files.values()]
    edges = {"width": [64] * len(files), "height": [64] * len(files)}
    pq.write_table(pa.table({"file": names, "text": texts, **edges}), folder / f"{id}.parquet")
    columns = {"path": str(folder / f"{id}.parquet"), "filename_column": "file", "caption_column": "text"}
    columns |= {"width_column": "width", "height_column": "height"}
    place = {"instance_data_dir": str(folder / id), "caption_strategy": "parquet"}
    return entry(id, "local", metadata_backend="parquet", parquet=columns, **place)


def written(folder: Path, data: list[Entry]) -> Path:
    """The data file that is there, replaced."""
    path = folder / "multidatabackend.json"
    path.write_text(json.dumps(data))
    return path
