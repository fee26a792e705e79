"""Taking over what SimpleTuner and sd-scripts have encoded, where it can be shown that it still fits.

Both keep latents and embeddings in the scale that we use. But neither says in a file name what the entry was made of,
so every file is looked at: made after the image or caption was last changed, of the right size, and cropped as this
config crops. What cannot be shown is refused with the reason, and encoded anew. Latents come as one fixed draw,
without the deviation that our own entries have.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Generic, TypeVar

from simpletuner.caching import old
from simpletuner.caching.images import Pictures
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.old import Refused
from simpletuner.caching.old_crops import OldCrops
from simpletuner.data.items import Record

if TYPE_CHECKING:
    from torch import Tensor

V = TypeVar("V")


@dataclass(frozen=True)
class Way(Generic[V]):
    """An old file that may be there, and how it is read."""

    origin: str
    path: Path
    read: Callable[[], V]


@dataclass(frozen=True)
class Imported:
    """What was taken over, and what was not with the reason."""

    taken: Counter[str] = field(default_factory=Counter)
    """How many entries, by where they came from."""
    refused: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The old files that were left, by the reason."""

    def first(self, ways: Iterable[Way[V]]) -> V | None:
        """The first old file that is there and is not refused."""
        for way in ways:
            if way.path.is_file():
                try:
                    found = way.read()
                except Refused as error:
                    self.refused[str(error)].append(str(way.path))
                else:
                    self.taken[way.origin] += 1
                    return found
        return None


def import_latents(
    folder: Path, datasets: Sequence[Pictures], latents: LatentCache, advance: Callable[[int], None]
) -> Imported:
    """Take over latents of images whose entries are missing.

    Args:
        folder: With the files of the old cache, or with images that sd-scripts has put its files beside; only read.
        datasets: The data sets that `latents` was last filled for.
        latents: Where they go.
        advance: Called with the number of images that were looked at.
    """
    found = Imported()
    for dataset in datasets:
        crops = OldCrops.of(dataset.source)
        for record, is_alone in _with_twins(dataset.records):
            if not latents.has(dataset.id, record):
                taken = found.first(_OldImage(folder, dataset, record, is_alone, crops).ways())
                if taken is not None:
                    latents.put(dataset.id, record, taken)
            advance(1)
    return found


def refuse_older(entry: Path, thing: Path, what: str) -> None:
    """Refuse an old file when what it was made from has changed since, or may have."""
    if not thing.is_file():
        raise Refused(f"whether {what} has changed since cannot be told")
    if thing.stat().st_mtime > entry.stat().st_mtime:
        raise Refused(f"{what} was changed after it was made")


@dataclass(frozen=True)
class _OldImage:
    """An image, and where others may have kept its latents."""

    folder: Path
    dataset: Pictures
    record: Record
    is_alone: bool
    crops: OldCrops

    def ways(self) -> Iterator[Way[Tensor]]:
        """The files that there may be."""
        yield Way("latents of SimpleTuner", self._simpletuner, self._from_simpletuner)
        yield Way("latents of sd-scripts", self._kohya, self._from_kohya)

    @property
    def _simpletuner(self) -> Path:
        return old.simpletuner_latents(self.folder, self.record.key)

    @property
    def _kohya(self) -> Path:
        return old.kohya_latents(self.folder, self.record.key, *self.record.size)

    def _from_simpletuner(self) -> Tensor:
        self._refuse_doubt(self._simpletuner)
        latents = self._fitting(old.read_simpletuner_latents(self._simpletuner))
        self.crops.refuse_another(self.record)
        return latents

    def _from_kohya(self) -> Tensor:
        self._refuse_doubt(self._kohya)
        bucket = self.record.placement.bucket
        latents, size = old.read_kohya_latents(self._kohya, bucket.height // _SCALE, bucket.width // _SCALE)
        if size != tuple(self.record.size):
            raise Refused("it was made from an image of another size")
        self._refuse_unlike_pixels()
        self._refuse_crop_off_centre()
        return self._fitting(latents)

    def _refuse_doubt(self, path: Path) -> None:
        if not self.is_alone:
            raise Refused("several images have this name but for the ending, and share one file")
        refuse_older(path, Path(self.dataset.source.name(self.record.key)), "the image")

    def _refuse_unlike_pixels(self) -> None:
        """sd-scripts drops transparency and does not turn images as their EXIF data asks for; we do not."""
        from PIL import ExifTags, Image

        with Image.open(io.BytesIO(self.dataset.source.read(self.record.key))) as image:
            if image.has_transparency_data:
                raise Refused("the image is transparent, which sd-scripts ignores")
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                raise Refused("the image is to be turned when it is shown, which sd-scripts ignores")

    def _refuse_crop_off_centre(self) -> None:
        placement = self.record.placement
        surplus = (placement.resize.width - placement.bucket.width, placement.resize.height - placement.bucket.height)
        if any(abs(2 * start - extra) > 2 for start, extra in zip(placement.crop, surplus, strict=True)):
            raise Refused("it shows the middle of the image, and this config another part")

    def _fitting(self, latents: Tensor) -> Tensor:
        import torch

        bucket = self.record.placement.bucket
        shape = (_CHANNELS, bucket.height // _SCALE, bucket.width // _SCALE)
        if tuple(latents.shape) != shape:
            raise Refused("its size is not the one that this config needs")
        if not torch.isfinite(latents).all():
            raise Refused("it holds numbers that are not finite")
        return latents


def _with_twins(records: Iterable[Record]) -> list[tuple[Record, bool]]:
    """Each record, and whether no other one differs from it by the ending of its name alone."""
    listed = list(records)
    stems = [str(PurePosixPath(record.key).with_suffix("")) for record in listed]
    counts = Counter(stems)
    return [(record, counts[stem] == 1) for record, stem in zip(listed, stems, strict=True)]


_CHANNELS, _SCALE = 16, 8
