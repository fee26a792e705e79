"""What every image of some data sets looks like; kept between reports by content, so only new images are opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from simpletuner.data import images
from simpletuner.data.dataset import Dataset
from simpletuner.data.lanes import together
from simpletuner.data.manifest import Saving
from simpletuner.data.report.duplicates import Look, look_at
from simpletuner.data.report.thumbnails import shrunk
from simpletuner.progress import Advanced, Reporter, StageStarted
from simpletuner.storage.local import LocalStore


@dataclass(frozen=True)
class Seen:
    """What was found by looking at images, by the digest of each."""

    looks: Mapping[str, Look]
    damaged: Mapping[str, str]
    """Why an image could not be decoded."""


class _Wanted(NamedTuple):
    """One image that nobody has looked at yet."""

    dataset: Dataset
    key: str
    digest: str


def look_through(datasets: Sequence[Dataset], path: Path, reporter: Reporter) -> Seen:
    """Look at every image that is not known yet.

    Args:
        datasets: Whose images are looked at.
        path: A Parquet file with what earlier reports saw; it is written again and again on the way.
        reporter: Told about progress.
    """
    looks, damaged = _load(path)
    wanted = [one for one in _all(datasets) if one.digest not in looks and one.digest not in damaged]
    if wanted:
        reporter.report(StageStarted("looking for images that are alike", len(wanted)))
        saving = Saving()
        for one, found in zip(wanted, together(_lanes(datasets), _seen, wanted), strict=True):
            if isinstance(found, Look):
                looks[one.digest] = found
            else:
                damaged[one.digest] = found
            reporter.report(Advanced(1))
            saving.when_due(lambda: _save(path, looks, damaged))
        _save(path, looks, damaged)
    return Seen(looks, damaged)


def _all(datasets: Sequence[Dataset]) -> list[_Wanted]:
    """Every image once, whatever the number of data sets and names it has."""
    found: dict[str, _Wanted] = {}
    for dataset in datasets:
        for key, digest in zip(dataset.records.all_keys(), dataset.records.digests(), strict=True):
            found.setdefault(digest, _Wanted(dataset, key, digest))
    return list(found.values())


def _seen(wanted: _Wanted) -> Look | str:
    """What an image looks like, or why it cannot be decoded."""
    source = wanted.dataset.source
    name = source.name(wanted.key)
    try:
        return look_at(shrunk(source.read(wanted.key), name, _EDGE))
    except images.Unreadable as error:
        return str(error).removeprefix(f"{name}: ")


def _lanes(datasets: Sequence[Dataset]) -> int:
    return max(os.cpu_count() or 1, *(dataset.source.lanes for dataset in datasets))


def _load(path: Path) -> tuple[dict[str, Look], dict[str, str]]:
    """What is known; nothing when there is no file, or one that another version wrote or that is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return {}, {}
    if (table.schema.metadata or {}).get(_FORMAT_KEY) != _FORMAT:
        return {}, {}
    looks, damaged = {}, {}
    for digest, gradients, waves, colours, problem in zip(*(c.to_pylist() for c in table.columns), strict=True):
        if problem is None:
            looks[digest] = Look(gradients, waves, colours)
        else:
            damaged[digest] = problem
    return looks, damaged


def _save(path: Path, looks: Mapping[str, Look], damaged: Mapping[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen = [(digest, look.gradients, look.waves, look.colours, None) for digest, look in looks.items()]
    rows = [*seen, *((digest, None, None, None, problem) for digest, problem in damaged.items())]
    types = [pa.string(), pa.uint64(), pa.uint64(), pa.binary(), pa.string()]
    fields = [pa.field(name, type) for name, type in zip(_COLUMNS, types, strict=True)]
    columns = list(zip(*rows, strict=True)) or [()] * len(fields)
    schema = pa.schema(fields, metadata={_FORMAT_KEY: _FORMAT})
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table([list(column) for column in columns], schema=schema), buffer, compression="zstd")
    LocalStore(path.parent).write(path.name, buffer.getvalue().to_pybytes())


_EDGE = 64
_COLUMNS = ("digest", "gradients", "waves", "colours", "problem")
_FORMAT_KEY = b"simpletuner.looks"
_FORMAT = b"1"
