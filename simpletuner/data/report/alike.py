"""Images that look alike, as groups of records within a data set, and images that two data sets share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from simpletuner.data.dataset import Dataset
from simpletuner.data.report.duplicates import Looks, groups
from simpletuner.data.report.looks import Seen


@dataclass(frozen=True)
class Alike:
    """Images of one data set that look alike."""

    records: tuple[int, ...]
    """The places of their records."""
    is_same_file: bool
    """Whether all of them have the same content, byte for byte."""


@dataclass(frozen=True)
class Shared:
    """Images that are in two data sets with different places, byte for byte."""

    ids: tuple[str, str]
    count: int
    examples: tuple[str, ...]
    is_evaluation: bool
    """Whether one of them measures what is learned from the other."""


def alike(dataset: Dataset, seen: Seen) -> tuple[Alike, ...]:
    """The groups of a data set, large ones first."""
    digests = dataset.records.digests()
    places = [place for place, digest in enumerate(digests) if digest in seen.looks]
    if not places:
        return ()
    found = groups(Looks.of([seen.looks[digests[place]] for place in places]))
    members = (tuple(places[one] for one in group) for group in found)
    return tuple(Alike(some, len({digests[place] for place in some}) == 1) for some in members)


def damaged(dataset: Dataset, seen: Seen) -> tuple[tuple[str, str], ...]:
    """The images that cannot be decoded although their heads look well, each with the reason."""
    records = dataset.records
    broken = (
        (key, seen.damaged.get(digest)) for key, digest in zip(records.all_keys(), records.digests(), strict=True)
    )
    return tuple((dataset.source.name(key), reason) for key, reason in broken if reason is not None)


def shared(datasets: Sequence[Dataset]) -> Iterator[Shared]:
    """What two data sets have in common; the same place listed twice is meant so."""
    known = {
        dataset.id: dict(zip(dataset.records.digests(), dataset.records.all_keys(), strict=True))
        for dataset in datasets
    }
    for one, other in combinations(datasets, 2):
        is_evaluation = (one.options.dataset_type == "eval") != (other.options.dataset_type == "eval")
        both = known[one.id].keys() & known[other.id].keys()
        if both and (is_evaluation or one.source.name("") != other.source.name("")):
            names = sorted(one.source.name(known[one.id][digest]) for digest in both)
            yield Shared((one.id, other.id), len(both), tuple(names[:_NAMED]), is_evaluation)


_NAMED = 30
