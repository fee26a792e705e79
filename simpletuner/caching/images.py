"""Images on their way to the encoder: what a data set and an encoder must be able to do, and reading pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from simpletuner.caching import old
from simpletuner.caching.tensors import TensorCache
from simpletuner.data.images import Unreadable
from simpletuner.data.items import Record
from simpletuner.data.sources.base import Source
from simpletuner.progress import Notice, Reporter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
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


class Pictures(Protocol):
    """A data set, as far as its images are encoded."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def source(self) -> Source:
        """Where its images are."""

    @property
    def records(self) -> Iterable[Record]:
        """Its images, in an order that does not change."""

    def pictures(self) -> Iterable[Record]:
        """Its images in every form that is encoded, mirrored ones too."""

    def pixels(self, record: Record) -> NDArray[np.float32]:
        """An image as it is trained on, in numbers from 0 to 255 with shape (height, width, 3).

        Raises:
            Unreadable: There are no pixels; the message names the file.
        """


Broken = dict[str, dict[str, str]]
"""For each data set the images that could not be read, with the reason."""


@dataclass(frozen=True)
class WantedImage:
    """An image that is to be encoded, once, however many data sets show it."""

    key: str
    dataset: Pictures
    record: Record
    homes: list[TensorCache] = field(default_factory=list)
    owners: list[tuple[Pictures, Record]] = field(default_factory=list)


class BrokenImages:
    """Images that cannot be read: the first ones are named at once, all of them are listed in the end."""

    def __init__(self, reporter: Reporter) -> None:
        self.by_dataset: dict[str, dict[str, str]] = defaultdict(dict)
        self._reporter = reporter
        self._named = 0

    def add(self, image: WantedImage, error: Unreadable) -> None:
        """Take down one image for every data set that shows it."""
        reason = str(error).removeprefix(f"{image.dataset.source.name(image.record.key)}: ")
        for dataset, record in image.owners:
            self.by_dataset[dataset.id][record.key] = f"{dataset.source.name(record.key)}: {reason}"
        self._named += 1
        if self._named <= _MOST_NAMED:
            self._reporter.report(Notice(f"data set '{image.dataset.id}': left out: {error}"))


def prepared(image: WantedImage) -> Tensor | Unreadable | None:
    """The pixels of an image, in a thread of its own; nothing when another process has made its entry by now."""
    if all(image.key in cache for cache in image.homes):
        return None
    try:
        return pixels(image.dataset, image.record)
    except Unreadable as error:
        return error
    except BaseException as error:
        error.add_note(f"while reading {image.dataset.source.name(image.record.key)}")
        raise


def pixels(dataset: Pictures, record: Record) -> Tensor:
    """Pixels in -1..1 with shape (height, width, 3)."""
    import torch

    return torch.from_numpy(dataset.pixels(record)).div_(127.5).sub_(1)


def batch(prepared: Sequence[Tensor]) -> Tensor:
    """Images of one size as a batch with shape (batch, 3, height, width).

    In memory the channels stay last: convolutions take a third less time so.
    """
    import torch

    return torch.stack(list(prepared)).permute(0, 3, 1, 2)


def old_places(images: Sequence[WantedImage]) -> list[str]:
    """The folders in which other programs have left what they encoded, as far as a short look shows."""
    caches = dict.fromkeys(cache for image in images for cache in image.homes)
    found = [cache.store.name for cache in caches if cache.holds_old_files()]
    for image in images[:_LOOKED_AT]:
        folder = image.dataset.source.name("")
        if old.kohya_latents(Path(folder), image.record.key, *image.record.size).is_file():
            found.append(folder)
    return list(dict.fromkeys(found))


_LOOKED_AT = 64
_MOST_NAMED = 10
