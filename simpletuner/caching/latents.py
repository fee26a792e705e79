"""Images to latents, through the cache: bucket by bucket, and the image encoder only when something is missing.

Mean and standard deviation are kept, not a sample, so that the draw is made anew, and repeatably, for every use; unless
the run asks for one draw that is kept.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from typing import TYPE_CHECKING

from simpletuner.caching import old
from simpletuner.caching.filling import Group, Writer, ahead, grouped
from simpletuner.caching.images import (
    Broken,
    BrokenImages,
    Codec,
    OpenCodec,
    Pictures,
    WantedImage,
    batch,
    old_places,
    pixels,
    prepared,
)
from simpletuner.caching.naming import Reasons
from simpletuner.caching.tensors import TensorCache
from simpletuner.data.images import Unreadable
from simpletuner.data.items import Placement, Record
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, Notice, Reporter, StageStarted
from simpletuner.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

POSTERIOR, SAMPLE = "posterior", "sample"
"""What is kept of an image: mean and deviation, or one draw from them."""


class LatentCache:
    """What the image encoder says of every image of a run."""

    def __init__(self, caches: Mapping[str, TensorCache], *, mode: str = POSTERIOR) -> None:
        """A cache over those of the data sets.

        Args:
            caches: The cache of each data set by its id; all have the same recipe, of which `mode` is a part.
            mode: `posterior` keeps mean and deviation of an image, `sample` one draw from them.
        """
        self._caches = caches
        self._mode = mode
        self._datasets: dict[str, Pictures] = {}
        self._demand: OpenCodec | None = None
        self._open = ExitStack()
        self._codec: Codec | None = None
        self._encoding = threading.Lock()

    def fill(
        self,
        datasets: Sequence[Pictures],
        codec: OpenCodec,
        batch_size: int,
        reporter: Reporter,
        *,
        only: Callable[[str], bool] | None = None,
    ) -> Broken:
        """Encode the images that are not in their cache yet; returns those that cannot be read.

        Images of a cache on demand are left until they are asked for.

        Args:
            datasets: The data sets of the run.
            codec: Opens the encoder; not called when nothing is missing.
            batch_size: How many images are encoded at once.
            reporter: Told why something is missing, about progress, and about each image that cannot be read.
            only: Says of the key of a missing entry whether it is made now; all are unless given.
        """
        self._datasets = {dataset.id: dataset for dataset in datasets}
        self._demand = codec
        groups = self._groups(datasets, batch_size, only or (lambda key: True))
        if not groups:
            return {}
        for cache in {cache for group in groups for image in group.members for cache in image.homes}:
            cache.try_out()
        if only is None:
            reporter.report(Notice(f"image latents: {self.why()}"))
            for place in old_places([image for group in groups for image in group.members]):
                reporter.report(Notice(old.notice(place)))
        reporter.report(StageStarted("image latents", sum(len(group.members) for group in groups)))
        with codec() as opened:
            return self._encode_all(groups, opened, reporter)

    def wanted(self) -> Mapping[TensorCache, set[str]]:
        """The keys of every entry that the data sets of the last `fill` need, by their cache."""
        found: dict[TensorCache, set[str]] = defaultdict(set)
        for id, dataset in self._datasets.items():
            found[self._caches[id]].update(_key(self._caches[id], record) for record in dataset.pictures())
        return found

    def why(self) -> Reasons:
        """How many entries are missing, and why."""
        found = Reasons()
        for cache, keys in self.wanted().items():
            found += Reasons() if cache.on_demand else cache.why(keys)
        return found

    def get(self, dataset: str, record: Record) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one image, each with shape (channels, height, width).

        Raises:
            DataError: The entry is gone or damaged; or, on demand, the image cannot be read. The message names it.
        """
        cache = self._caches[dataset]
        key = _key(cache, record)
        if not cache.on_demand:
            return _posterior(cache.get(key))
        with self._encoding:
            found = cache.find(key)
            return _posterior(self._made(cache, key, dataset, record) if found is None else found)

    def has(self, dataset: str, record: Record) -> bool:
        """Whether the entry of an image is there."""
        return _key(self._caches[dataset], record) in self._caches[dataset]

    def put(self, dataset: str, record: Record, latents: Tensor) -> None:
        """Keep latents that were made elsewhere, with shape (channels, height, width), as the one draw of an image."""
        cache = self._caches[dataset]
        cache.put(_key(cache, record), {"latents": latents})

    def close(self) -> None:
        """Give back the encoder, if one was opened on demand."""
        self._codec = None
        self._open.close()

    def _groups(
        self, datasets: Sequence[Pictures], batch_size: int, only: Callable[[str], bool]
    ) -> list[Group[WantedImage]]:
        lists: list[tuple[Pictures, dict[str, Record]]] = []
        images: dict[str, WantedImage] = {}
        for dataset in datasets:
            cache = self._caches[dataset.id]
            if cache.on_demand:
                continue
            records = {_key(cache, record): record for record in dataset.pictures()}
            lists.append((dataset, records))
            for key in filter(only, cache.missing(records)):
                image = images.setdefault(key, WantedImage(key, dataset, records[key]))
                image.owners.append((dataset, records[key]))
                if cache not in image.homes:
                    image.homes.append(cache)
        if not images:
            return []
        buckets = {key: record.placement.bucket for _, records in lists for key, record in records.items()}
        return [
            Group([images[key] for key in group.members], group.shape)
            for group in grouped(buckets, images.__contains__, batch_size)
        ]

    def _encode_all(self, groups: Sequence[Group[WantedImage]], codec: Codec, reporter: Reporter) -> Broken:
        broken = BrokenImages(reporter)
        workers = max(_processors(), *{image.dataset.source.lanes for group in groups for image in group.members})
        depth = workers + groups[0].shape
        with Writer() as writer, ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
            for group, outcomes in ahead(pool, groups, prepared, depth):
                ready: list[tuple[WantedImage, Tensor]] = []
                for image, outcome in zip(group.members, outcomes, strict=True):
                    if isinstance(outcome, Unreadable):
                        broken.add(image, outcome)
                    elif outcome is not None:
                        ready.append((image, outcome))
                for image, kept in self._encoded(group, ready, codec):
                    for cache in image.homes:
                        writer.put(cache, image.key, kept)
                reporter.report(Advanced(len(group.members)))
        return broken.by_dataset

    def _encoded(
        self, group: Group[WantedImage], ready: Sequence[tuple[WantedImage, Tensor]], codec: Codec
    ) -> Iterator[tuple[WantedImage, dict[str, Tensor]]]:
        if not ready:
            return
        found = codec.encode(batch(group.filled([pixels for _, pixels in ready])))
        for number, (image, _) in enumerate(ready):
            name = image.dataset.source.name(image.record.key)
            yield image, self._kept(found.mean[number], found.std[number], image.key, name)

    def _made(self, cache: TensorCache, key: str, dataset: str, record: Record) -> dict[str, Tensor]:
        """Encode one image that was asked for; the encoder stays open."""
        if self._codec is None:
            assert self._demand is not None, "fill comes first"
            self._codec = self._open.enter_context(self._demand())
        found = self._codec.encode(batch([pixels(self._datasets[dataset], record)]))
        kept = self._kept(found.mean[0], found.std[0], key, self._datasets[dataset].source.name(record.key))
        cache.put(key, kept)
        return kept

    def _kept(self, mean: Tensor, std: Tensor, key: str, name: str) -> dict[str, Tensor]:
        import torch

        if not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
            raise DataError(
                f"{name}: the image encoder answers with numbers that are not finite. "
                f"Set vae_dtype to fp32; if it is already, the weights of the encoder are damaged."
            )
        if self._mode == POSTERIOR:
            return {"mean": mean, "std": std}
        # The draw belongs to the entry: whoever makes it, in whichever run, makes the same one.
        generator = torch.Generator().manual_seed(derive(0, "latent sample", key))
        return {"latents": mean + std * torch.randn(mean.shape, generator=generator)}


def _key(cache: TensorCache, record: Record) -> str:
    """The image's content and what is done to its pixels decide the entry; its name does not."""
    return cache.key(record.digest, _plan(record.placement))


@lru_cache(maxsize=65536)
def _plan(placement: Placement) -> str:
    numbers = repr((*placement.resize, *placement.crop, *placement.bucket))
    return f"{numbers} {placement.interpolation}{' mirrored' if placement.mirrored else ''}"


def _posterior(entry: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if "latents" in entry:
        return entry["latents"], entry["latents"].new_zeros(()).expand_as(entry["latents"])
    return entry["mean"], entry["std"]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
