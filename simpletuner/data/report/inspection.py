"""Finds out everything that a report shows about the data sets of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from simpletuner.data.dataset import Dataset
from simpletuner.data.report.alike import alike, damaged, shared
from simpletuner.data.report.facts import facts
from simpletuner.data.report.findings import Finding, Part, findings, shared_findings
from simpletuner.data.report.looks import Seen, look_through
from simpletuner.data.report.thumbnails import Thumbnail, thumbnail
from simpletuner.data.report.wording import Tokenizers, wording
from simpletuner.data.sampler import Order
from simpletuner.progress import Advanced, Reporter, StageStarted


@dataclass(frozen=True)
class Wishes:
    """What a report contains besides what is known without opening images."""

    tokenizers: Tokenizers | None = None
    alike: bool = True
    """Whether every image is opened once, to find those that look alike or are damaged."""
    thumbnails: bool = True
    sampling: str = "auto-weighting"


@dataclass(frozen=True)
class Companion:
    """Images that belong to those of a data set, beside a few of them."""

    id: str
    kind: str
    """A name of `CONDITIONING_TYPES`."""
    place: str
    pairs: tuple[tuple[Thumbnail, Thumbnail], ...]


@dataclass(frozen=True)
class Gallery:
    """Thumbnails of one data set by the places of their records."""

    thumbnails: Mapping[int, Thumbnail]
    alike: tuple[tuple[int, ...], ...]
    """The groups of images alike that are shown."""
    companions: tuple[Companion, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything there is to say about the data sets of a run."""

    parts: tuple[Part, ...]
    galleries: tuple[Gallery, ...]
    findings: tuple[tuple[Finding, ...], ...]
    """Of each part."""
    between: tuple[Finding, ...]
    """Between data sets."""
    batches_per_epoch: int
    notes: tuple[str, ...] = ()
    """What could not be found out, and why."""


def inspect(datasets: Sequence[Dataset], cache: Path, wishes: Wishes, reporter: Reporter) -> Report:
    """Look at data sets from all sides.

    Args:
        datasets: Opened; those that are trained on come first.
        cache: The folder for caches; what images look like is kept in it.
        wishes: What to look at.
        reporter: Told about progress.
    """
    seen = look_through(datasets, cache / "report" / "looks.parquet", reporter) if wishes.alike else Seen({}, {})
    parts = tuple(_part(dataset, seen, wishes, reporter) for dataset in datasets)
    trained = [dataset for dataset in datasets if dataset.options.dataset_type == "image"]
    return Report(
        parts=parts,
        galleries=tuple(_galleries(datasets, parts, wishes, reporter)),
        findings=tuple(findings(part) for part in parts),
        between=shared_findings(tuple(shared(datasets))),
        batches_per_epoch=Order(trained, seed=0, sampling=wishes.sampling).batches_per_epoch,
    )


def _part(dataset: Dataset, seen: Seen, wishes: Wishes, reporter: Reporter) -> Part:
    return Part(
        facts=facts(dataset),
        wording=wording(dataset, wishes.tokenizers, reporter),
        alike=alike(dataset, seen),
        damaged=damaged(dataset, seen),
        was_looked_at=wishes.alike,
    )


def _galleries(datasets: Sequence[Dataset], parts: Sequence[Part], wishes: Wishes, reporter: Reporter) -> list[Gallery]:
    if not wishes.thumbnails:
        return [Gallery({}, (), tuple(_companions(dataset, {}))) for dataset in datasets]
    few = len(parts) > _MANY_PARTS
    wanted = [_wanted(part, _FEW if few else _MANY) for part in parts]
    reporter.report(StageStarted("making thumbnails", sum(map(len, wanted))))
    found = []
    for dataset, part, places in zip(datasets, parts, wanted, strict=True):
        made = {place: _told(dataset, place, reporter) for place in places}
        shown = tuple(group.records[:_OF_A_GROUP] for group in part.alike[:_GROUPS])
        thumbnails = {place: one for place, one in made.items() if one is not None}
        found.append(Gallery(thumbnails, shown, tuple(_companions(dataset, thumbnails))))
    return found


def _companions(dataset: Dataset, thumbnails: Mapping[int, Thumbnail]) -> Iterator[Companion]:
    for condition in dataset.conditions:
        beside = (
            (mine, thumbnail(condition.dataset, condition.dataset.records[place]))
            for place, mine in islice(thumbnails.items(), _PAIRS)
        )
        pairs = tuple((mine, other) for mine, other in beside if other is not None)
        yield Companion(condition.dataset.id, condition.kind, condition.dataset.source.name(""), pairs)


def _wanted(part: Part, counts: Sequence[int]) -> list[int]:
    """The records to show: `counts` of each bucket, the fullest one first; then groups that look alike."""
    buckets = zip(part.facts.buckets, counts, strict=False)
    places = [place for bucket, count in buckets for place in bucket.examples[:count]]
    alike = [place for group in part.alike[:_GROUPS] for place in group.records[:_OF_A_GROUP]]
    return list(dict.fromkeys([*places, *alike]))


def _told(dataset: Dataset, place: int, reporter: Reporter) -> Thumbnail | None:
    made = thumbnail(dataset, dataset.records[place])
    reporter.report(Advanced(1))
    return made


_MANY_PARTS = 4
_MANY = (6,) * 6 + (2,) * 18
_FEW = (4,) * 6 + (1,) * 6
_PAIRS = 4
_GROUPS = 12
_OF_A_GROUP = 4
