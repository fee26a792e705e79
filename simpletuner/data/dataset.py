"""Data sets that are ready to be drawn from: scanned, filtered, placed into buckets and captioned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from simpletuner.data import captions, geometry, images
from simpletuner.data.items import Placement, Record, Size
from simpletuner.data.manifest import Manifest, Row, Skipped, scan, write_skip_list, write_table
from simpletuner.data.options import DataDefaults
from simpletuner.data.plan import caption_rules, geometry_rules
from simpletuner.data.sources import DataBackend, DataEntry, Source
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, DatasetReady, Notice, Reporter, StageStarted
from simpletuner.seeds import derive

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Dataset:
    """One data set, ready to be drawn from."""

    id: str
    source: Source
    records: Sequence[Record]
    repeats: int
    probability: float
    batch_size: int
    regularise: bool
    options: DataBackend
    manifest: Manifest
    skipped: tuple[Skipped, ...] = ()

    @property
    def buckets(self) -> Mapping[Size, int]:
        """How many images each bucket holds."""
        return Counter(record.placement.bucket for record in self.records)

    def image(self, record: Record) -> Image.Image:
        """The pixels of a record as they are trained on; a DataError names the file that cannot be read."""
        name = self.source.name(record.key)
        image = images.decode(self.source.read(record.key), name)
        if image.size != record.size:
            raise images.Unreadable(f"{name}: its pixels are {Size(*image.size)}, but its head says {record.size}")
        return images.apply(image, record.placement)

    def without(self, damaged: Mapping[str, str], reporter: Reporter) -> Dataset:
        """The data set without images that could not be decoded; they stay out of it until their files change.

        Args:
            damaged: The reason for each key; copies of these files go with them.
            reporter: Told how many images are left out.
        """
        if not damaged:
            return self
        reasons = self._with_copies(damaged)
        skipped = (*self.skipped, *(Skipped(key, _UNREADABLE, reason) for key, reason in reasons.items()))
        dataset = replace(
            self,
            records=tuple(record for record in self.records if record.key not in reasons),
            skipped=skipped,
            manifest=self.manifest.rejecting(reasons),
        )
        path = _skip_list(self.manifest.path)
        write_skip_list(path, self.source, skipped)
        text = f"{len(reasons)} more {_files(len(reasons))} left out: {_UNREADABLE}; see {path}"
        reporter.report(Notice(f"data set '{self.id}': {text}"))
        _refuse_empty(dataset)
        return dataset

    def _with_copies(self, damaged: Mapping[str, str]) -> dict[str, str]:
        """The reasons without the names of the files, for every record with the same bytes as a damaged one."""
        reasons = {
            record.digest: damaged[record.key].removeprefix(f"{self.source.name(record.key)}: ")
            for record in self.records
            if record.key in damaged
        }
        return {record.key: reasons[record.digest] for record in self.records if record.digest in reasons}


def open_all(
    entries: Sequence[DataEntry],
    defaults: DataDefaults,
    *,
    train_batch_size: int,
    cache: Path,
    seed: int,
    reporter: Reporter,
) -> tuple[Dataset, ...]:
    """Scan every data set that takes part in training, and say what was found.

    Args:
        entries: The data file, checked.
        defaults: What holds where an entry says nothing.
        train_batch_size: For data sets that do not have their own.
        cache: The folder for manifests and skip lists; a folder `manifest` is made in it.
        seed: Of the run; it decides on random crops.
        reporter: Told about progress, about each data set, and about what was left out.
    """
    wanted = [entry for entry in entries if isinstance(entry, DataBackend) and entry.probability > 0]
    if not wanted:
        raise DataError("no data set takes part in training: give one of them a probability above 0 in the data file.")
    opened: list[Dataset] = []
    for entry in wanted:
        plan = _Plan(entry, defaults, seed, cache / "manifest" / f"{quote(entry.id, safe=' ')}.parquet")
        opened.append(_open(plan, entry.train_batch_size or train_batch_size, opened, reporter))
    return tuple(opened)


@dataclass(frozen=True)
class _Plan:
    """What turns the rows of one manifest into records."""

    entry: DataBackend
    defaults: DataDefaults
    seed: int
    path: Path

    @property
    def geometry(self) -> geometry.Rules:
        return geometry_rules(self.entry, self.defaults)

    @property
    def captions(self) -> captions.Rules:
        return caption_rules(self.entry, self.defaults)


def _open(plan: _Plan, batch_size: int, others: Sequence[Dataset], reporter: Reporter) -> Dataset:
    source = plan.entry.open()
    reporter.report(StageStarted(f"looking through data set '{plan.entry.id}'", 0))
    manifest = scan(
        source,
        plan.path,
        with_captions=plan.captions.reads_text_files,
        known=_known_elsewhere(source, others),
        advance=lambda count: reporter.report(Advanced(count)),
    )
    usable, skipped = _filtered(plan, manifest.rows)
    manifest = _with_digests(plan, manifest, source, usable, reporter)
    usable, skipped = _filtered(plan, manifest.rows)  # a file may have turned out to be unreadable
    write_skip_list(_skip_list(plan.path), source, skipped)
    dataset = Dataset(
        id=plan.entry.id,
        source=source,
        records=_records(plan, usable, source),
        repeats=plan.entry.repeats,
        probability=plan.entry.probability,
        batch_size=batch_size,
        regularise=plan.entry.is_regularisation_data,
        options=plan.entry,
        manifest=manifest,
        skipped=tuple(skipped),
    )
    _refuse_empty(dataset)
    _tell(dataset, reporter)
    return dataset


def _known_elsewhere(source: Source, others: Sequence[Dataset]) -> tuple[Row, ...]:
    """What another data set of the same folder knows already: a folder is often listed once for each resolution."""
    return next((other.manifest.rows for other in others if other.source.name("") == source.name("")), ())


def _filtered(plan: _Plan, rows: Iterable[Row]) -> tuple[list[Row], list[Skipped]]:
    """The rows that take part, and those that do not with the reason."""
    rules, usable, skipped = plan.geometry, [], []
    for row in rows:
        if row.problem:
            skipped.append(Skipped(row.key, _UNREADABLE, row.problem))
        elif reason := geometry.refusal(row.size, rules):
            skipped.append(Skipped(row.key, reason, f"it is {row.size}"))
        else:
            usable.append(row)
    chosen = _sample(usable, plan.entry)
    return chosen, skipped


def _sample(rows: list[Row], entry: DataBackend) -> list[Row]:
    """At most max_num_samples rows, chosen by the id of the data set alone."""
    if entry.max_num_samples is None or len(rows) <= entry.max_num_samples:
        return rows
    ranked = sorted(rows, key=lambda row: derive(0, "max_num_samples", entry.id, row.key))
    return sorted(ranked[: entry.max_num_samples])


def _with_digests(plan: _Plan, manifest: Manifest, source: Source, rows: list[Row], reporter: Reporter) -> Manifest:
    keys = [row.key for row in rows if not row.digest]
    if not keys:
        return manifest
    reporter.report(StageStarted(f"reading new images of data set '{plan.entry.id}'", len(keys)))
    return manifest.with_digests(source, keys, advance=lambda count: reporter.report(Advanced(count)))


def _records(plan: _Plan, rows: Sequence[Row], source: Source) -> tuple[Record, ...]:
    rules, place = plan.captions, _Placer(plan)
    records, silent = [], []
    for row in rows:
        texts = captions.alternatives(row.key, row.caption, rules)
        if not texts:
            silent.append(row)
        records.append(Record(row.key, row.version, row.digest, row.size, place(row), texts))
    if silent:
        raise _without_captions(plan, silent, source)
    write_table(_caption_list(plan.path), ())
    return tuple(records)


class _Placer:
    """Placements for the rows of one data set; images of the same size share one where nothing is drawn."""

    def __init__(self, plan: _Plan) -> None:
        self._rules = plan.geometry
        self._seed = plan.seed
        self._id = plan.entry.id
        self._shared = lru_cache(maxsize=None)(self._place)
        self._is_random = geometry.CROP_STYLES[self._rules.crop_style] is geometry.at_random

    def __call__(self, row: Row) -> Placement:
        if not self._is_random:
            return self._shared(row.size)
        return self._place(row.size, self._draw(row.key, "left"), self._draw(row.key, "top"))

    def _place(self, size: Size, left: float = 0.5, top: float = 0.5) -> Placement:
        return geometry.place(size, self._rules, draw=(left, top))

    def _draw(self, key: str, edge: str) -> float:
        return derive(self._seed, f"crop {edge}", self._id, key) / 2**63


def _without_captions(plan: _Plan, rows: Sequence[Row], source: Source) -> DataError:
    """One report on all images that nothing is said about."""
    path = _caption_list(plan.path)
    table = [(source.name(row.key), _caption_trouble(row, plan.captions)) for row in rows]
    write_table(path, table)
    some = "".join(f"\n  {name}: {trouble}" for name, trouble in table[:5])
    more = f"\n  and {len(rows) - 5} more, see {path}" if len(rows) > 5 else ""
    return DataError(
        f"data set '{plan.entry.id}': {len(rows)} of its images {'has' if len(rows) == 1 else 'have'} no caption:"
        f"{some}{more}\nWrite the captions, take the images away, or choose another caption_strategy."
    )


def _caption_trouble(row: Row, rules: captions.Rules) -> str:
    if not rules.reads_text_files:
        return f"caption_strategy {rules.strategy} gives no text for it"
    return "there is no .txt file of this name" if row.caption is None else "its .txt file is empty"


def _refuse_empty(dataset: Dataset) -> None:
    if dataset.records:
        return
    if not dataset.skipped:
        raise DataError(
            f"data set '{dataset.id}' has no images: there is none in {dataset.source.name('')}. "
            f"Put images there, or change instance_data_dir."
        )
    reasons = _counts(dataset.skipped)
    if len(reasons) == 1:
        told = f"all {len(dataset.skipped)} are {next(iter(reasons))}"
    else:
        told = ", ".join(f"{count} are {reason}" for reason, count in reasons.items())
    raise DataError(f"data set '{dataset.id}' has no images: {told}. {_remedy(dataset)}")


def _remedy(dataset: Dataset) -> str:
    limits = [name for name in _LIMITS if any(name in entry.reason for entry in dataset.skipped)]
    advice = f"Change or remove {' and '.join(limits)}; the" if limits else "The"
    return f"{advice} files are listed in {_skip_list(dataset.manifest.path)}."


def _tell(dataset: Dataset, reporter: Reporter) -> None:
    skip_list = str(_skip_list(dataset.manifest.path)) if dataset.skipped else ""
    reporter.report(
        DatasetReady(dataset.id, len(dataset.records), len(dataset.buckets), len(dataset.skipped), skip_list)
    )
    for text in _remarks(dataset):
        reporter.report(Notice(f"data set '{dataset.id}': {text}"))


def _remarks(dataset: Dataset) -> Iterator[str]:
    if dataset.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in _counts(dataset.skipped).items())
        count = len(dataset.skipped)
        yield f"{count} {_files(count)} left out: {reasons}; see {_skip_list(dataset.manifest.path)}"
    buckets = dataset.buckets
    short = sum(count * (dataset.repeats + 1) < dataset.batch_size for count in buckets.values())
    if short:
        yield (
            f"{short} of {len(buckets)} buckets hold fewer images than a batch of {dataset.batch_size}; "
            f"their images are repeated to fill it"
        )


def _counts(skipped: Iterable[Skipped]) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in skipped).most_common())


def _files(count: int) -> str:
    return "file is" if count == 1 else "files are"


def _skip_list(manifest: Path) -> Path:
    return manifest.with_suffix(".skipped.tsv")


def _caption_list(manifest: Path) -> Path:
    return manifest.with_suffix(".captions.tsv")


_UNREADABLE = "not readable as an image"
_LIMITS = ("minimum_image_size", "minimum_aspect_ratio", "maximum_aspect_ratio")
