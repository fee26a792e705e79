"""Data sets without any files: rows as a scan would have found them, in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpletuner.data import captions, geometry
from simpletuner.data.dataset import Dataset
from simpletuner.data.items import Size
from simpletuner.data.manifest import Manifest, Row, table_of
from simpletuner.data.records import Placer, Records
from simpletuner.data.sources import Local
from simpletuner.data.timeline import Window

SHAPES = (Size(512, 512), Size(1024, 512), Size(512, 1024), Size(1536, 512), Size(512, 1536))
"""Each has a bucket of its own."""


def manifest(*rows: Row) -> Manifest:
    """What a scan would have found."""
    return Manifest(Path("m.parquet"), table_of(rows))


def records(rows: Sequence[Row], *, rules: captions.Rules | None = None, **shape: Any) -> Records:
    """All rows as records, with these rules of geometry."""
    placer = Placer(geometry.Rules(**{"resolution": 512, "crop_style": "center", **shape}), seed=1, id="a")
    found = manifest(*rows)
    return Records(found, np.arange(len(found)), placer, rules or captions.Rules("textfile"))


def dataset(
    id: str,
    buckets: Sequence[int],
    *,
    repeats: int = 0,
    probability: float = 1.0,
    batch_size: int = 2,
    said: tuple[str, ...] = ("caption",),
    window: Window | None = None,
    uses: int | None = None,
    dropout: float = 0.0,
    limit: int | None = None,
) -> Dataset:
    """A data set with so many images in each of its buckets."""
    rows = [
        Row(f"{bucket}/{number:07}.jpg", "1", 9, *SHAPES[bucket], captions=said)
        for bucket, count in enumerate(buckets)
        for number in range(count)
    ]
    rules = captions.Rules("textfile", disable_multiline_split=True, dropout=dropout)
    options = Local(id=id, instance_data_dir=Path("nowhere"), disable_after_epoch_step=limit)
    return Dataset(
        id=id,
        source=options.open(),
        records=records(rows, rules=rules),
        repeats=repeats,
        probability=probability,
        batch_size=batch_size,
        regularise=False,
        options=options,
        window=window or Window(),
        uses=uses,
    )
