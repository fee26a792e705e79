"""From the entries of a data file to data sets that are ready: scan, filter, place, caption, pair, tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from simpletuner.data import captions, geometry, plan, silence
from simpletuner.data.conditions import with_conditions
from simpletuner.data.dataset import UNREADABLE, Dataset, counts, files_are, refuse_empty, skip_list
from simpletuner.data.generators.expansion import expand
from simpletuner.data.items import Size
from simpletuner.data.manifest import LEFT_OUT, Manifest, Places, Skipped
from simpletuner.data.options import DataDefaults
from simpletuner.data.records import Placer, Records, unique_sizes
from simpletuner.data.scan import scan
from simpletuner.data.skipped import write_skip_list
from simpletuner.data.sources import DataBackend, DataEntry, Source
from simpletuner.data.sources.base import Telling
from simpletuner.data.tables.catalog import Catalogued
from simpletuner.data.timeline import Window
from simpletuner.data.web.downloads import Preparable
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, DatasetReady, Notice, Reporter, StageStarted
from simpletuner.seeds import derive


@dataclass(frozen=True)
class Opened:
    """All data sets of a run."""

    training: tuple[Dataset, ...]
    evaluation: tuple[Dataset, ...] = ()

    @property
    def whole(self) -> tuple[Dataset, ...]:
        """Those that are trained on and those the loss is measured on, without what belongs to them."""
        return (*self.training, *self.evaluation)

    @property
    def encoded(self) -> tuple[Dataset, ...]:
        """All whose images are used as latents: conditioning data sets too, masks not."""
        conditions = [one.dataset for dataset in self.whole for one in dataset.conditions if one.is_encoded]
        return (*self.whole, *conditions)


@dataclass(frozen=True)
class Opening:
    """What opening data sets needs to know of the run."""

    entries: Sequence[DataEntry]
    defaults: DataDefaults
    train_batch_size: int
    cache: Path
    seed: int
    """Decides on random crops and on variants of captions."""
    caption_dropout: float
    reporter: Reporter
    allows_silence: bool = False
    """Whether images without a caption are let through."""

    def path(self, id: str) -> Path:
        """The manifest of a data set."""
        return self.cache / "manifest" / f"{_file_name(id)}.parquet"

    def scanned(self, entry: DataBackend, *, known: Manifest | None = None) -> tuple[Source, Manifest]:
        """The source of an entry, and all that is known about its files."""
        source = self._source(entry)
        self.reporter.report(StageStarted(f"looking through data set '{entry.id}'", 0))
        manifest = scan(
            source,
            self.path(entry.id),
            caption_extension=entry.caption_extension,
            with_captions=self.captions(entry).reads_text_files,
            known=None if known is None else known.table,
            begin=lambda count: self.reporter.report(
                StageStarted(f"looking at new images of data set '{entry.id}'", count)
            ),
            advance=self.advance,
        )
        if isinstance(source, Telling):
            source.tell(self.reporter)
        return source, manifest

    def _source(self, entry: DataBackend) -> Source:
        if entry.keeps_downloads and entry.cache_dir is None:
            folder = self.cache / entry.type / _file_name(entry.id)
            entry = entry.model_copy(update={"cache_dir": folder})
        source, columns = entry.open(), plan.table_columns(entry, self.defaults)
        if columns is not None:
            source = Catalogued(source, columns, id=entry.id)
        if isinstance(source, Preparable):
            source.prepare(self.reporter)
        return source

    def advance(self, count: int) -> None:
        """Tell that so many more files are known."""
        self.reporter.report(Advanced(count))

    def captions(self, entry: DataBackend) -> captions.Rules:
        """How an entry makes captions."""
        return plan.caption_rules(entry, self.defaults, self.entries, seed=self.seed, dropout=self.caption_dropout)

    def placer(self, entry: DataBackend) -> Placer:
        """What places the images of an entry."""
        rules = plan.geometry_rules(entry, self.defaults)
        return Placer(rules, self.seed, entry.id, redraws=entry.vae_cache_clear_each_epoch, mirrors=entry.flip_aug)


def open_all(
    entries: Sequence[DataEntry],
    defaults: DataDefaults,
    *,
    train_batch_size: int,
    cache: Path,
    seed: int,
    reporter: Reporter,
    caption_dropout: float = 0.0,
    allows_silence: bool = False,
) -> Opened:
    """Scan every data set that takes part in a run, and say what was found.

    Args:
        entries: The data file, checked.
        defaults: What holds where an entry says nothing.
        train_batch_size: For data sets that do not have their own.
        cache: The folder for manifests and skip lists; a folder `manifest` is made in it.
        seed: Of the run; it decides on random crops and on variants of captions.
        reporter: Told about progress, about each data set, and about what was left out.
        caption_dropout: The share of uses without a caption, where a data set does not say otherwise.
        allows_silence: Lets images without a caption through, to report on them instead.
    """
    entries, _ = expand(entries)
    opening = Opening(entries, defaults, train_batch_size, cache, seed, caption_dropout, reporter, allows_silence)
    wanted = [entry for entry in entries if isinstance(entry, DataBackend) and entry.probability > 0]
    training = [entry for entry in wanted if entry.dataset_type == "image"]
    if not training:
        raise DataError("no data set takes part in training: give one of them a probability above 0 in the data file.")
    opened = _open_each([*training, *(one for one in wanted if one.dataset_type == "eval")], opening)
    paired = with_conditions(opened, opening)
    for dataset in paired:
        _tell(dataset, opening)
    matched = _with_matched_counts(paired[: len(training)])
    return Opened(tuple(matched), tuple(paired[len(training) :]))


def _open_each(entries: Sequence[DataBackend], opening: Opening) -> list[Dataset]:
    """The data sets of these entries; what is wrong with any of them is told at once."""
    opened: list[Dataset] = []
    wrong: list[str] = []
    for entry in entries:
        try:
            opened.append(_open(entry, opening, opened))
        except DataError as error:
            name = f"data set '{entry.id}'"
            wrong.append(str(error) if str(error).startswith(name) else f"{name}: {error}")
    if wrong:
        raise DataError("\n".join(wrong))
    return opened


def _open(entry: DataBackend, opening: Opening, others: Sequence[Dataset]) -> Dataset:
    known = next((one.manifest for one in others if _is_same_place(one.options, entry)), None)
    source, manifest = opening.scanned(entry, known=known)
    placer, rules = opening.placer(entry), opening.captions(entry)
    usable, skipped = _filtered(entry, placer.rules, manifest)
    complete = _completed(entry, placer.rules, manifest, source, usable, opening)
    if complete is not manifest:
        manifest = complete
        usable, skipped = _filtered(entry, placer.rules, manifest)  # a file may have turned out to be unreadable
    write_skip_list(skip_list(opening.path(entry.id)), source, skipped)
    is_prior = entry.is_regularisation_data and entry.regularisation_mode == "prior"
    dataset = Dataset(
        id=entry.id,
        source=source,
        records=Records(manifest, usable, placer, rules),
        repeats=entry.repeats,
        probability=entry.probability,
        batch_size=entry.train_batch_size or opening.train_batch_size,
        regularise=entry.is_regularisation_data and not is_prior,
        options=entry,
        skipped=tuple(skipped),
        loss_weight=entry.prior_loss_weight if is_prior else 1.0,
        window=_window(entry),
    )
    refuse_empty(dataset)
    if not opening.allows_silence:
        silence.refuse(dataset)
    return dataset


def _is_same_place(one: DataBackend, other: DataBackend) -> bool:
    """Whether two entries list the same files: a folder is often listed once for each resolution."""
    return one.place == other.place and one.place is not None


def _file_name(id: str) -> str:
    """The id with nothing in it that a file cannot be called, and short enough for every disk."""
    name = quote(id, safe=" ")
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{derive(0, 'file name', id):016x}"


def _window(entry: DataBackend) -> Window:
    ends = (end if end is not None and end > 0 else None for end in (entry.end_epoch, entry.end_step))
    last_epoch, last_step = ends
    return Window(max(entry.start_epoch, 1), last_epoch, max(entry.start_step, 1), last_step)


def _filtered(entry: DataBackend, rules: geometry.Rules, manifest: Manifest) -> tuple[Places, list[Skipped]]:
    """The rows that take part, and those that do not with the reason."""
    skipped = list(manifest.nameless)
    readable = manifest.is_empty("problem")
    for place in np.flatnonzero(~readable).tolist():
        skipped.append(_unusable(manifest.text("key", place), manifest.text("problem", place)))
    places = np.flatnonzero(readable)
    sizes, which = unique_sizes(manifest, places)
    refusals = [geometry.refusal(size, rules) for size in sizes]
    refused = np.array([reason is not None for reason in refusals], dtype=bool)[which]
    for place, kind in zip(places[refused].tolist(), which[refused].tolist(), strict=True):
        skipped.append(Skipped(manifest.text("key", place), refusals[kind] or "", f"it is {sizes[kind]}"))
    return _sample(places[~refused], entry, manifest), skipped


def _unusable(key: str, problem: str) -> Skipped:
    if not problem.startswith(LEFT_OUT):
        return Skipped(key, UNREADABLE, problem)
    reason, _, detail = problem.removeprefix(LEFT_OUT).partition(": ")
    return Skipped(key, reason, detail)


def _sample(places: Places, entry: DataBackend, manifest: Manifest) -> Places:
    """At most max_num_samples rows, chosen by the id of the data set alone."""
    if entry.max_num_samples is None or len(places) <= entry.max_num_samples:
        return places
    keys = manifest.table.column("key").take(places).to_pylist()
    ranks = np.array([derive(0, "max_num_samples", entry.id, key) for key in keys])
    return np.sort(places[np.argsort(ranks, kind="stable")[: entry.max_num_samples]])


def _completed(
    entry: DataBackend,
    rules: geometry.Rules,
    manifest: Manifest,
    source: Source,
    usable: Places,
    opening: Opening,
) -> Manifest:
    """The manifest with everything that can only be found out by reading whole files."""
    missing = usable[manifest.is_empty("digest")[usable]]
    if len(missing):
        opening.reporter.report(StageStarted(f"reading new images of data set '{entry.id}'", len(missing)))
        manifest = manifest.with_digests(source, missing, opening.advance)
    if not rules.wants_faces:
        return manifest
    unseen = usable[np.asarray(manifest.table.column("face").is_null().to_numpy())[usable]]
    if len(unseen):
        opening.reporter.report(StageStarted(f"looking for faces in data set '{entry.id}'", len(unseen)))
        manifest = manifest.with_faces(source, unseen, opening.advance)
    return manifest


def _with_matched_counts(datasets: Sequence[Dataset]) -> list[Dataset]:
    """The data sets; those with match_count are used as often in an epoch as all others together."""
    others = sum(
        len(dataset.records) * (dataset.repeats + 1) for dataset in datasets if not dataset.options.match_count
    )
    return [replace(dataset, uses=others) if dataset.options.match_count else dataset for dataset in datasets]


def _tell(dataset: Dataset, opening: Opening) -> None:
    path = str(skip_list(dataset.manifest.path)) if dataset.skipped else ""
    ready = DatasetReady(dataset.id, len(dataset.records), len(dataset.buckets), len(dataset.skipped), path)
    opening.reporter.report(ready)
    for text in _remarks(dataset, opening.defaults):
        opening.reporter.report(Notice(f"data set '{dataset.id}': {text}"))


def _remarks(dataset: Dataset, defaults: DataDefaults) -> Iterator[str]:
    if dataset.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts(dataset.skipped).items())
        count = len(dataset.skipped)
        yield f"{count} {files_are(count)} left out: {reasons}; see {skip_list(dataset.manifest.path)}"
    yield from silence.unread(dataset, defaults)
    yield from _large_buckets(dataset)
    if dataset.options.dataset_type == "image":
        yield from _small_buckets(dataset)


def _large_buckets(dataset: Dataset) -> Iterator[str]:
    """Thin images keep their shape and an edge, so that they may become far larger than all others."""
    square = dataset.records.placer.plain(Size(_ANY, _ANY)).bucket
    largest = max(dataset.buckets, key=lambda size: size.width * size.height)
    times = largest.width * largest.height / (square.width * square.height)
    if times >= _FAR_LARGER:
        limit = "maximum_aspect_ratio" if largest.width > largest.height else "minimum_aspect_ratio"
        yield (
            f"its thinnest images become {largest} pixels, {times:.0f} times as many as a square has, and training on "
            f"them needs that much more memory; {limit} leaves such images out"
        )


def _small_buckets(dataset: Dataset) -> Iterator[str]:
    buckets = dataset.buckets
    short = sum(count * (dataset.repeats + 1) < dataset.batch_size for count in buckets.values())
    if short:
        hold, their = ("holds", "its") if short == 1 else ("hold", "their")
        yield (
            f"{short} of {len(buckets)} buckets {hold} fewer images than a batch of {dataset.batch_size}; "
            f"{their} images are repeated to fill it"
        )


_LONGEST_NAME = 150
_ANY = 4096
_FAR_LARGER = 4
