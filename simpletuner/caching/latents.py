"""Images to latents, through the cache: bucket by bucket, and the image encoder only when something is missing.

Mean and standard deviation are kept, not a sample, so that the draw is made anew, and repeatably, for every use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from simpletuner.caching.tensors import TensorCache, settle
from simpletuner.data.dataset import Dataset
from simpletuner.data.items import Record
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, Reporter, StageStarted

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class Encoded(Protocol):
    """What the image encoder says of a batch."""

    @property
    def mean(self) -> Tensor:
        """Mean with shape (batch, channels, height, width)."""

    @property
    def std(self) -> Tensor:
        """Standard deviation with the same shape."""


class Codec(Protocol):
    """Encodes pixels."""

    def encode(self, pixels: Tensor) -> Encoded:
        """Encode pixels in -1..1 with shape (batch, 3, height, width)."""


class OpenCodec(Protocol):
    """Opens the image encoder."""

    def __call__(self) -> AbstractContextManager[Codec]:
        """The encoder, in memory only inside the ``with``."""


Broken = Mapping[str, Mapping[str, str]]
"""For each data set the images that could not be read, with the reason."""


@dataclass(frozen=True)
class _Wanted:
    dataset: Dataset
    record: Record
    cache: TensorCache
    key: str


class LatentCache:
    """What the image encoder says of every image of a run."""

    def __init__(self, caches: Mapping[str, TensorCache]) -> None:
        """`caches` holds the cache of each data set by its id; all have the same recipe."""
        self._caches = caches

    def fill(self, datasets: Sequence[Dataset], codec: OpenCodec, batch_size: int, reporter: Reporter) -> Broken:
        """Encode the images that are not in their cache yet; returns those that cannot be read."""
        missing = [one for dataset in datasets for one in self._missing(dataset)]
        broken: dict[str, dict[str, str]] = defaultdict(dict)
        if not missing:
            return broken
        reporter.report(StageStarted("image latents", len(missing)))
        with codec() as opened, ThreadPoolExecutor() as pool:
            writing: list[Future[None]] = []
            for prepared in _ahead(pool, _by_bucket(missing, batch_size)):
                for one, outcome in prepared:
                    if isinstance(outcome, DataError):
                        broken[one.dataset.id][one.record.key] = str(outcome)
                readable = [(one, image) for one, image in prepared if not isinstance(image, DataError)]
                settle(writing)
                writing = self._encode(readable, opened, pool)
                reporter.report(Advanced(len(prepared)))
            settle(writing)
        return broken

    def get(self, dataset: str, record: Record) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one image, each with shape (channels, height, width)."""
        cache = self._caches[dataset]
        found = cache.get(_key(cache, record))
        return found["mean"], found["std"]

    def _missing(self, dataset: Dataset) -> Iterator[_Wanted]:
        cache = self._caches[dataset.id]
        by_key = {_key(cache, record): record for record in dataset.records}
        for key in cache.missing(by_key):
            yield _Wanted(dataset, by_key[key], cache, key)

    def _encode(
        self, batch: Sequence[tuple[_Wanted, Image.Image]], codec: Codec, pool: ThreadPoolExecutor
    ) -> list[Future[None]]:
        """Encode a batch; its entries are written while the next one is encoded."""
        if not batch:
            return []
        found = codec.encode(_pixels([image for _, image in batch]))
        return [
            pool.submit(one.cache.put, one.key, {"mean": found.mean[number], "std": found.std[number]})
            for number, (one, _) in enumerate(batch)
        ]


def _key(cache: TensorCache, record: Record) -> str:
    """The image's content and what is done to its pixels decide the entry; its name does not."""
    placement = record.placement
    return cache.key(record.digest, repr((*placement.resize, *placement.crop, *placement.bucket)))


def _by_bucket(wanted: Sequence[_Wanted], batch_size: int) -> Iterator[Sequence[_Wanted]]:
    buckets: dict[tuple[int, int], list[_Wanted]] = defaultdict(list)
    for one in wanted:
        buckets[one.record.placement.bucket].append(one)
    for entries in buckets.values():
        for start in range(0, len(entries), batch_size):
            yield entries[start : start + batch_size]


def _ahead(
    pool: ThreadPoolExecutor, batches: Iterator[Sequence[_Wanted]]
) -> Iterator[list[tuple[_Wanted, Image.Image | DataError]]]:
    """The batches with their images; the images of the next batch are read while the current one is used."""
    coming: list[tuple[_Wanted, Future[Image.Image | DataError]]] = []
    for batch in chain(batches, [()]):
        current, coming = coming, [(one, pool.submit(_prepared, one)) for one in batch]
        if current:
            yield [(one, image.result()) for one, image in current]


def _prepared(wanted: _Wanted) -> Image.Image | DataError:
    try:
        return wanted.dataset.image(wanted.record)
    except DataError as error:
        return error


def _pixels(pictures: Sequence[Image.Image]) -> Tensor:
    import numpy as np
    import torch

    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
