"""A data set that is ready to be drawn from: scanned, filtered, placed into buckets, captioned, paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from simpletuner.data import images, masks
from simpletuner.data.captions import Use
from simpletuner.data.items import Record, Size
from simpletuner.data.manifest import Manifest, Skipped, is_digest_of
from simpletuner.data.records import Records
from simpletuner.data.skipped import write_skip_list
from simpletuner.data.sources import DataBackend, Source
from simpletuner.data.timeline import Window
from simpletuner.errors import DataError
from simpletuner.progress import Notice, Reporter

if TYPE_CHECKING:
    from PIL import Image

UNREADABLE = "not readable as an image"


@dataclass(frozen=True)
class Condition:
    """Images that belong to those of another data set."""

    kind: str
    """A name of `CONDITIONING_TYPES`."""
    dataset: Dataset
    """Its record number i belongs to record number i of the other data set."""

    @property
    def is_encoded(self) -> bool:
        """Whether the images are used as latents; the others are used as pixels."""
        return self.kind not in PIXEL_KINDS

    def of(self, leader: Dataset, keep: NDArray[np.bool_]) -> Condition:
        """What remains when the other data set has lost images; `keep` says which it still has."""
        records = self.dataset.records.only(np.flatnonzero(keep))
        is_loose = self.dataset.records.follows is None
        records = records if is_loose else records.following(leader.records)
        return replace(self, dataset=replace(self.dataset, records=records))


PIXEL_KINDS = frozenset({"mask", "segmentation"})


@dataclass(frozen=True)
class Dataset:
    """One data set, ready to be drawn from."""

    id: str
    source: Source
    records: Records
    repeats: int
    probability: float
    batch_size: int
    regularise: bool
    """Whether the target is what the base model answers."""
    options: DataBackend
    skipped: tuple[Skipped, ...] = ()
    loss_weight: float = 1.0
    window: Window = Window()
    uses: int | None = None
    """How many samples an epoch takes, where that does not follow from `repeats`."""
    conditions: tuple[Condition, ...] = ()

    @property
    def manifest(self) -> Manifest:
        """What is known about all files of the source."""
        return self.records.manifest

    @property
    def buckets(self) -> Mapping[Size, int]:
        """How many images each bucket holds."""
        return self.records.buckets()

    def pictures(self) -> Iterator[Record]:
        """Every record in every form that its image is used in."""
        return self.records.pictures()

    def fingerprint(self) -> str:
        """What the order of the samples depends on, in a few characters: the images and their buckets."""
        text = "\n".join([*self.records.digests(), *map(str, self.records.bucket_of.tolist())])
        return xxhash.xxh3_64_hexdigest(text.encode())

    def caption(self, index: int, use: Use, seed: int) -> str:
        """The caption for one use of an image; empty when it is dropped."""
        return self.records.caption(index, use, seed)

    def image(self, record: Record) -> Image.Image:
        """The pixels of a record as they are trained on; a DataError names the file that cannot be read."""
        name, data = self.source.name(record.key), self.source.read(record.key)
        if not is_digest_of(record.digest, data):
            raise DataError(
                f"{name} has changed since it was looked at, in the middle of the preparation. Start again: it is "
                f"looked at anew then."
            )
        image = images.decode(data, name)
        if image.size != record.size:
            raise images.Unreadable(f"{name}: {self._wrong_size(record.size, Size(*image.size))}")
        return images.apply(image, record.placement)

    def pixels(self, record: Record) -> NDArray[np.float32]:
        """The same in numbers from 0 to 255, with shape (height, width, 3)."""
        return np.array(self.image(record), dtype=np.float32)

    def opacity(self, record: Record) -> masks.Weights:
        """How opaque a record is where it is trained on, with shape (height, width)."""
        return masks.read_opacity(self.source.read(record.key), self.source.name(record.key), record.placement)

    def without(self, damaged: Mapping[str, str], reporter: Reporter) -> Dataset:
        """The data set without images that could not be decoded; they stay out of it until their files change.

        Args:
            damaged: The reason for each key; copies of these files go with them.
            reporter: Told how many images are left out.
        """
        if not damaged:
            return self
        reasons = self._with_copies(damaged)
        keep = np.array([key not in reasons for key in self.records.all_keys()], dtype=bool)
        manifest = self.manifest.rejecting(reasons)
        dataset = replace(
            self,
            records=self.records.over(manifest).only(np.flatnonzero(keep)),
            skipped=(*self.skipped, *(Skipped(key, UNREADABLE, reason) for key, reason in reasons.items())),
        )
        dataset = replace(dataset, conditions=tuple(one.of(dataset, keep) for one in self.conditions))
        path = skip_list(manifest.path)
        write_skip_list(path, self.source, dataset.skipped)
        text = f"{len(reasons)} more {files_are(len(reasons))} left out: {UNREADABLE}; see {path}"
        reporter.report(Notice(f"data set '{self.id}': {text}"))
        refuse_empty(dataset)
        return dataset

    def with_kind(self, *, before: str, after: str) -> Dataset:
        """The data set, with another kind for those of its conditions that have one."""
        known = (replace(one, kind=after) if one.kind == before else one for one in self.conditions)
        return replace(self, conditions=tuple(known))

    def _wrong_size(self, said: Size, found: Size) -> str:
        """Who was wrong about the size of an image, and what to change."""
        who, remedy = self.options.sizes_said_by
        if self.options.metadata_backend == "parquet" and self.options.parquet is not None:
            who = f"table {self.options.parquet.path}"
            remedy = "correct the table, or leave width_column and height_column out"
        return f"{who} says {said}, but it has {found} pixels; {remedy}"

    def _with_copies(self, damaged: Mapping[str, str]) -> dict[str, str]:
        """The reasons without the names of the files, for every record with the same bytes as a damaged one."""
        digests = dict(zip(self.records.all_keys(), self.records.digests(), strict=True))
        reasons = {digests[key]: why.removeprefix(f"{self.source.name(key)}: ") for key, why in damaged.items()}
        return {key: reasons[digest] for key, digest in digests.items() if digest in reasons}


def refuse_empty(dataset: Dataset) -> None:
    """Raise a DataError that says why a data set has no images, when it has none."""
    if len(dataset.records):
        return
    if not dataset.skipped:
        raise DataError(
            f"data set '{dataset.id}' has no images: there is none in {dataset.source.name('')}. "
            f"Put images there, or change {dataset.options.place_option}."
        )
    reasons = counts(dataset.skipped)
    if len(reasons) == 1:
        told = f"all {len(dataset.skipped)} are {next(iter(reasons))}"
    else:
        told = ", ".join(f"{count} are {reason}" for reason, count in reasons.items())
    raise DataError(f"data set '{dataset.id}' has no images: {told}. {_remedy(dataset)}")


def _remedy(dataset: Dataset) -> str:
    limits = [name for name in _LIMITS if any(name in entry.reason for entry in dataset.skipped)]
    advice = f"Change or remove {' and '.join(limits)}; the" if limits else "The"
    return f"{advice} files are listed in {skip_list(dataset.manifest.path)}."


def counts(skipped: Iterable[Skipped]) -> dict[str, int]:
    """How often each reason is given, the most frequent one first."""
    return dict(Counter(entry.reason for entry in skipped).most_common())


def files_are(count: int) -> str:
    """The noun and verb for a number of files."""
    return "file is" if count == 1 else "files are"


def skip_list(manifest: Path) -> Path:
    """The file that names the images left out."""
    return manifest.with_suffix(".skipped.tsv")


_LIMITS = ("minimum_image_size", "minimum_aspect_ratio", "maximum_aspect_ratio", "max_upscale_threshold")
