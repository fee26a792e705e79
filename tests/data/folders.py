"""Small folders of real images, made on the spot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpletuner.data.dataset import Dataset
from simpletuner.data.entries import read_entries
from simpletuner.data.opening import Opened, open_all
from simpletuner.data.options import DataDefaults
from simpletuner.progress import Recorded


def save(path: Path, size: tuple[int, int] = (96, 64), seed: int = 0) -> None:
    """One picture of noise; the same seed gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(path)


def folder(root: Path, sizes: Mapping[str, tuple[int, int]]) -> Path:
    """A folder with a picture of each of these sizes."""
    for seed, (name, size) in enumerate(sizes.items()):
        save(root / name, size, seed)
    return root


def opened(*raw: dict[str, Any], cache: Path, reporter: Recorded | None = None, **defaults: Any) -> tuple[Dataset, ...]:
    """The data sets of a data file that are trained on, read and opened as a run would."""
    return opened_whole(*raw, cache=cache, reporter=reporter, **defaults).training


def opened_whole(*raw: dict[str, Any], cache: Path, reporter: Recorded | None = None, **defaults: Any) -> Opened:
    """All data sets of a data file, read and opened as a run would."""
    entries, wrong = read_entries(list(raw))
    assert wrong == []
    options = DataDefaults(**{"resolution": 64, **defaults})
    return open_all(entries, options, train_batch_size=2, cache=cache, seed=42, reporter=reporter or Recorded())
