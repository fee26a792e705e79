"""Masks, references and other images that belong to those of another data set: paired by name, cropped alike.

An image without its partner, and a partner that belongs to no image at all, are mistakes: both are named in one list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from simpletuner.data import masks, pairs, plan
from simpletuner.data.dataset import PIXEL_KINDS, Condition, Dataset
from simpletuner.data.generators.source import Generated, GeneratedSource
from simpletuner.data.items import Size
from simpletuner.data.manifest import Manifest, Places
from simpletuner.data.records import Records
from simpletuner.data.skipped import write_table
from simpletuner.data.sources import DataBackend, Source
from simpletuner.errors import DataError
from simpletuner.progress import Notice, StageStarted

if TYPE_CHECKING:
    from simpletuner.data.opening import Opening


def with_conditions(datasets: Sequence[Dataset], opening: Opening) -> list[Dataset]:
    """The data sets, each with the images that belong to its own.

    Raises:
        DataError: Images have no partner, or partners no image; the message names some and the file that names all.
    """
    used = {dataset.id for dataset in datasets}
    links = {id: partners for id, partners in plan.conditions(opening.entries).items() if id in used}
    scanned: dict[str, tuple[Source, Manifest]] = {}
    for entry in {entry.id: entry for entries in links.values() for entry in entries}.values():
        if not isinstance(entry, Generated):
            scanned[entry.id] = opening.scanned(entry)
    found = [_paired(dataset, links.get(dataset.id, ()), scanned, opening) for dataset in datasets]
    _refuse(list(_trouble(found, scanned, opening)), opening)
    return [pairing.complete(opening) for pairing in found]


@dataclass(frozen=True)
class _Partner:
    """One conditioning data set beside one data set."""

    entry: DataBackend
    source: Source
    manifest: Manifest
    places: Places
    """For each record of the data set, the row of its partner, or -1."""
    surplus: frozenset[str]
    """Partners that belong to no image of this data set."""


@dataclass(frozen=True)
class _Paired:
    dataset: Dataset
    partners: tuple[_Partner, ...]

    def complete(self, opening: Opening) -> Dataset:
        """The data set with its conditions."""
        conditions = tuple(_condition(self.dataset, partner, opening) for partner in self.partners)
        return replace(self.dataset, conditions=conditions)


def _paired(
    dataset: Dataset,
    entries: Sequence[DataBackend],
    scanned: Mapping[str, tuple[Source, Manifest]],
    opening: Opening,
) -> _Paired:
    return _Paired(
        dataset,
        tuple(
            _generated(dataset, entry, opening)
            if isinstance(entry, Generated)
            else _found(dataset, entry, *scanned[entry.id])
            for entry in entries
        ),
    )


def _found(dataset: Dataset, entry: DataBackend, source: Source, manifest: Manifest) -> _Partner:
    keys = manifest.table.column("key").to_pylist()
    pairing = pairs.pair(dataset.manifest.table.column("key").to_pylist(), keys)
    return _Partner(entry, source, manifest, pairing.partners[dataset.records.places], frozenset(pairing.surplus))


def _generated(dataset: Dataset, entry: Generated, opening: Opening) -> _Partner:
    """Pairs that are made out of the images themselves: nothing is looked for, and nothing can be missing."""
    import pyarrow as pa

    table = dataset.manifest.table
    generator = entry.generator
    digests = [
        generator.digest(digest, key)
        for digest, key in zip(table.column("digest").to_pylist(), table.column("key").to_pylist(), strict=True)
    ]
    place = table.schema.get_field_index("digest")
    manifest = Manifest(opening.path(entry.id), table.set_column(place, table.schema.field(place), [pa.array(digests)]))
    source = GeneratedSource(dataset.source, generator)
    return _Partner(entry, source, manifest, dataset.records.places, frozenset())


def _condition(dataset: Dataset, partner: _Partner, opening: Opening) -> Condition:
    entry, kind = partner.entry, partner.entry.conditioning_type or ""
    manifest = _completed(partner, opening)
    for text in _dark(partner, manifest) if kind in PIXEL_KINDS and not isinstance(entry, Generated) else ():
        opening.reporter.report(Notice(f"data set '{entry.id}': {text}"))
    is_loose = kind == "reference_loose"
    records = Records(
        manifest,
        partner.places,
        opening.placer(entry),
        opening.captions(entry),
        follows=None if is_loose else dataset.records,
    )
    is_shared = sum(entry in partners for partners in plan.conditions(opening.entries).values()) > 1
    id = f"{entry.id} for {dataset.id}" if is_shared else entry.id
    own = replace(dataset, id=id, source=partner.source, records=records, options=entry, skipped=())
    return Condition(kind, replace(own, conditions=()))


def _completed(partner: _Partner, opening: Opening) -> Manifest:
    """What is known of the partners, with digests; masks are decoded once, so that none turns out broken later."""
    manifest = partner.manifest
    if isinstance(partner.entry, Generated):
        return manifest
    places = np.unique(partner.places)
    missing = places[manifest.is_empty("digest")[places]]
    if not len(missing):
        return manifest
    opening.reporter.report(StageStarted(f"reading new images of data set '{partner.entry.id}'", len(missing)))
    is_pixels = partner.entry.conditioning_type in PIXEL_KINDS
    done = manifest.with_digests(partner.source, missing, opening.advance, decoding=is_pixels)
    broken = [place for place in missing.tolist() if done.text("problem", place)]
    if broken:
        told = [_named(partner.source.name(done.text("key", one)), done.text("problem", one)) for one in broken]
        raise DataError(
            f"data set '{partner.entry.id}': {len(broken)} of its images cannot be used:{_some(told)}\n"
            f"Save them anew, or take them and the images that they belong to away."
        )
    return done


def _dark(partner: _Partner, manifest: Manifest) -> Iterator[str]:
    """Look at a few masks: where none of them shows anything, they are hardly what was meant."""
    places = np.unique(partner.places)
    some = places[np.linspace(0, len(places) - 1, min(len(places), _LOOKED_AT)).astype(np.int64)].tolist()
    for place in some:
        key = manifest.text("key", place)
        name = partner.source.name(key)
        if masks.brightest(partner.source.read(key), name, partner.entry.conditioning_type or "") > _DARK:
            return
    yield (
        f"its masks are black, and nothing is learned where they are: none of the {len(some)} that were looked at, "
        f"such as {name}, is brighter than {255 * _DARK:.0f} of 255 in its red channel"
    )


def _named(name: str, problem: str) -> str:
    return f"{name}: {problem.removeprefix(f'{name}: ')}"


def _trouble(
    found: Sequence[_Paired], scanned: Mapping[str, tuple[Source, Manifest]], opening: Opening
) -> Iterator[tuple[str, str, str]]:
    """Everything that does not pair: the data set, the file, and what is wrong with it."""
    for pairing in found:
        for partner in pairing.partners:
            yield from _lonely(pairing.dataset, partner)
            if partner.entry.conditioning_type != "reference_loose":
                yield from _misshapen(pairing.dataset, partner)
    for id, (source, _) in scanned.items():
        surplus = [one.surplus for pairing in found for one in pairing.partners if one.entry.id == id]
        for key in sorted(frozenset.intersection(*surplus)) if surplus else ():
            yield id, source.name(key), "belongs to no image: none has this name"


def _lonely(dataset: Dataset, partner: _Partner) -> Iterator[tuple[str, str, str]]:
    problems = partner.manifest.table.column("problem")
    for index, place in enumerate(partner.places.tolist()):
        if place < 0:
            yield dataset.id, dataset.source.name(dataset.records.key(index)), f"has no partner in '{partner.entry.id}'"
        elif problem := problems[place].as_py():
            name = partner.source.name(partner.manifest.text("key", place))
            yield partner.entry.id, name, f"cannot be used: {problem.removeprefix(f'{name}: ')}"


def _misshapen(dataset: Dataset, partner: _Partner) -> Iterator[tuple[str, str, str]]:
    """Partners of another shape than their image: cropping them alike would cut out something else."""
    if isinstance(partner.entry, Generated) or not (partner.places >= 0).all():
        return
    images, others = _sizes(dataset.manifest, dataset.records.places), _sizes(partner.manifest, partner.places)
    for index, (image, other) in enumerate(zip(images, others, strict=True)):
        if min(other) > 0 and not pairs.same_shape(image, other):
            name = partner.source.name(partner.manifest.text("key", int(partner.places[index])))
            yield partner.entry.id, name, f"has {other} pixels, but its image has {image}: the shapes differ"


def _sizes(manifest: Manifest, places: Places) -> list[Size]:
    edges = (manifest.numbers(name)[places].tolist() for name in ("width", "height"))
    return [Size(width, height) for width, height in zip(*edges, strict=True)]


def _refuse(trouble: Sequence[tuple[str, str, str]], opening: Opening) -> None:
    path = opening.path("pairs").with_suffix(".unpaired.tsv")
    write_table(path, trouble)
    if trouble:
        told = [f"data set '{id}': {name} {what}" for id, name, what in trouble]
        raise DataError(
            f"{len(trouble)} {'image is' if len(trouble) == 1 else 'images are'} not paired:{_some(told)}\n"
            f"All are listed in {path}. Give both files of a pair the same name, apart from the ending, and the same "
            f"shape; save anew what cannot be read, or take both away."
        )


def _some(told: Sequence[str]) -> str:
    some = "".join(f"\n  {one}" for one in told[:_SHOWN])
    return f"{some}\n  and {len(told) - _SHOWN} more" if len(told) > _SHOWN else some


_SHOWN = 8
_LOOKED_AT = 8
_DARK = 8 / 255
"""Masks that are numbered 0 and 1 stay below it."""
