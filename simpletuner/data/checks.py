"""What is wrong with the entries of a data file, alone and together; looks at nothing but the entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from os.path import abspath
from pathlib import Path

from simpletuner.data import captions, faces, geometry
from simpletuner.data.captions.filters import load_filters
from simpletuner.data.entries import not_served, place, where
from simpletuner.data.generators.expansion import expand
from simpletuner.data.generators.source import Generated
from simpletuner.data.options import DataDefaults
from simpletuner.data.plan import caption_rules, conditions, geometry_rules
from simpletuner.data.sections import CONDITIONING_TYPES
from simpletuner.data.sources import DataBackend, DataEntry, Embeds, ImageEmbeds, Local, TextEmbeds
from simpletuner.data.sources.base import IMAGE_SUFFIXES, OTHER_PICTURES
from simpletuner.errors import DataError, Problem
from simpletuner.schema import Section, refusals


def check_entries(entries: Sequence[DataEntry], defaults: DataDefaults, *, complete: bool = True) -> list[Problem]:
    """What is wrong with the entries, alone and together; looks at nothing but the entries.

    Args:
        entries: What `read_entries` gave.
        defaults: What holds where an entry says nothing.
        complete: Whether all entries could be read; else nothing is said about entries that only seem to be missing.
    """
    entries, _ = expand(entries)  # what is wrong with generators was said when the entries were read
    return [
        *_ids(entries),
        *(_nothing_to_train_on(entries) if complete else ()),
        *_default_caches(entries),
        *_filters(entries),
        *(_references(entries) if complete else ()),
        *_shared_folders(entries, defaults),
        *_caches_among_pictures(entries, defaults),
        *(_pairs(entries) if complete else ()),
        *_windows(entries),
        *(problem for entry in entries for problem in _alone(entry, defaults)),
    ]


def _ids(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    for id, count in Counter(entry.id for entry in entries).items():
        if count > 1:
            yield Problem(place(id, ["id"]), f"{count} entries are called '{id}'; give each one its own id")


def _nothing_to_train_on(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    images = [entry for entry in entries if isinstance(entry, DataBackend) and entry.dataset_type == "image"]
    used = [entry for entry in images if entry.probability > 0]
    if not images and not any(_is_refused(entry) for entry in entries):
        yield Problem("data file", "has no data set with images; add one with type local and instance_data_dir")
    elif images and all(entry.probability == 0 for entry in images):
        yield Problem("data file", "the probability of every data set is 0; give one of them a larger one")
    elif used and all(entry.match_count for entry in used):
        yield Problem("data file", "every data set has match_count, so there is none to be matched; add one without it")
    elif used and all(entry.is_regularisation_data and entry.regularisation_mode == "parent" for entry in used):
        what = "every data set is regularisation data, from which nothing new is learned; add one with what to learn"
        yield Problem("data file", what)


def _is_refused(entry: DataEntry) -> bool:
    """Whether it might be a data set with images, if its dataset_type were one that is served."""
    return isinstance(entry, DataBackend) and any(name == "dataset_type" for name, _ in refusals(entry))


def _default_caches(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    for kind in (TextEmbeds, ImageEmbeds):
        first, *others = [entry.id for entry in entries if isinstance(entry, kind) and entry.default] or [""]
        for id in others:
            yield Problem(place(id, ["default"]), f"'{first}' is the default already; only one entry can be")


def _references(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    texts = {entry.id for entry in entries if isinstance(entry, TextEmbeds)}
    caches = {entry.id for entry in entries if isinstance(entry, ImageEmbeds)}
    images = {entry.id for entry in entries if isinstance(entry, DataBackend)}
    for entry in entries:
        if isinstance(entry, DataBackend) and not entry.not_yet:
            wanted = [(entry.text_embeds, "text_embeds", texts), (entry.image_embeds, "image_embeds", caches)]
            wanted += [(id, "conditioning_data", images) for id in entry.conditioning_data]
            wanted += [(entry.source_dataset_id, "source_dataset_id", images)]
            for id, option, known in wanted:
                if id is not None and id not in known:
                    names = ", ".join(sorted(known)) or "there is none"
                    yield Problem(where(entry, option), f"no such entry is called '{id}'; known are: {names}")


def _shared_folders(entries: Sequence[DataEntry], defaults: DataDefaults) -> Iterator[Problem]:
    taken = {defaults.cache_dir_text: "the captions"} if defaults.cache_dir_text else {}
    taken |= {entry.cache_dir: f"'{entry.id}'" for entry in entries if isinstance(entry, Embeds) and entry.cache_dir}
    for entry in entries:
        folder = entry.cache_dir_vae if isinstance(entry, DataBackend) else None
        if folder is not None and folder in taken:
            yield Problem(where(entry, "cache_dir_vae"), f"{folder} is used by {taken[folder]} too; choose another one")
        elif folder is not None:
            taken[folder] = f"'{entry.id}'"


def among_pictures(folder: Path, entries: Sequence[DataEntry]) -> str | None:
    """What is wrong with writing to a folder, if it lies among the pictures of a data set."""
    for entry in entries:
        if isinstance(entry, Local) and Path(abspath(folder)).is_relative_to(abspath(entry.instance_data_dir)):
            return (
                f"{folder} lies among the pictures of data set '{entry.id}', where nothing is ever written; "
                f"choose a folder outside of {entry.instance_data_dir}"
            )
    return None


def _caches_among_pictures(entries: Sequence[DataEntry], defaults: DataDefaults) -> Iterator[Problem]:
    places = [(name, defaults.__dict__[name]) for name in ("cache_dir_text", "cache_dir_vae")]
    for entry in entries:
        in_bucket = {"cache_dir_vae", "cache_dir"} if entry.type == "aws" else set[str]()
        options = {"cache_dir", "cache_dir_vae", "csv_cache_dir"} - in_bucket
        places += [(where(entry, option), entry.__dict__.get(option)) for option in sorted(options)]
    for told, folder in places:
        if folder is not None and (wrong := among_pictures(folder, entries)):
            yield Problem(told, wrong)


def _alone(entry: DataEntry, defaults: DataDefaults) -> Iterator[Problem]:
    if isinstance(entry, Generated):  # what it has in common with the data set it is made from was looked at there
        return
    if entry.not_yet:
        yield not_served(entry.id, entry.type, type(entry))
        return
    for name, remedy in _refusals(entry):
        yield Problem(where(entry, name), remedy)
    if isinstance(entry, DataBackend):
        rules = geometry_rules(entry, defaults)
        yield from _sizes(entry, rules)
        if rules.wants_faces and (reason := faces.unavailable()):
            yield Problem(where(entry, "crop_style"), reason)
        for option, what in (*geometry.conflicts(rules), *_plain(entry), *_table(entry), *_regularisation(entry)):
            yield Problem(where(entry, option), what)
        if entry.dataset_type != "conditioning":
            yield from _captions(entry, defaults)


def _plain(entry: DataBackend) -> Iterator[tuple[str, str]]:
    """Values that can mean nothing."""
    if entry.probability < 0:
        yield "probability", f"must be at least 0, got {entry.probability:g}"
    if entry.caption_extension.lower() in IMAGE_SUFFIXES | OTHER_PICTURES:
        yield (
            "caption_extension",
            f"'{entry.caption_extension}' is the ending of images; choose another one, such as .txt",
        )


def _refusals(entry: DataEntry) -> Iterator[tuple[str, str]]:
    yield from refusals(entry)
    for name in sorted(entry.model_fields_set):
        value = entry.__dict__[name]
        if isinstance(value, Section):
            yield from ((f"{name} › {part}", remedy) for part, remedy in refusals(value))


def _sizes(entry: DataBackend, rules: geometry.Rules) -> Iterator[Problem]:
    """Sizes in the wrong unit, and limits that contradict each other."""
    sizes = {
        "resolution": rules.resolution,
        "minimum_image_size": rules.minimum_image_size,
        "maximum_image_size": rules.maximum_image_size,
        "target_downsample_size": rules.target_downsample_size,
    }
    for name, value in sizes.items():
        if value and (wrong := _wrong_unit(value, rules.resolution_type)):
            yield Problem(where(entry, name), wrong)
    if rules.maximum_image_size and not rules.target_downsample_size:
        yield Problem(where(entry, "maximum_image_size"), "needs target_downsample_size too: the size to shrink to")
    low, high = rules.minimum_aspect_ratio, rules.maximum_aspect_ratio
    if low is not None and high is not None and low > high:
        yield Problem(where(entry, "minimum_aspect_ratio"), f"{low:g} is more than maximum_aspect_ratio, {high:g}")


def _wrong_unit(value: float, resolution_type: str) -> str | None:
    if resolution_type == "area" and value > _MOST_MEGAPIXELS:
        return f"{value:g} would be megapixels; for an edge in pixels set resolution_type to pixel_area"
    if resolution_type != "area" and value < _FEWEST_PIXELS:
        return f"{value:g} would be an edge in pixels; for megapixels set resolution_type to area"
    if resolution_type != "area" and value > _MOST_PIXELS:
        return f"{value:.0f} would be an edge in pixels, and a square of {_MOST_PIXELS} px is the largest; lower it"
    return None


def _captions(entry: DataBackend, defaults: DataDefaults) -> Iterator[Problem]:
    rules = caption_rules(entry, defaults)
    yield from _prompts(entry, rules)
    for option, what in (*captions.conflicts(rules), *_strategy(entry, rules)):
        yield Problem(where(entry, option), what)


def _filters(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    for entry in entries:
        if isinstance(entry, TextEmbeds):
            try:
                load_filters(entry.caption_filter_list)
            except DataError as error:
                yield Problem(where(entry, "caption_filter_list"), str(error))


def _strategy(entry: DataBackend, rules: captions.Rules) -> Iterator[tuple[str, str]]:
    """Captions from a table that nobody named."""
    if rules.only_instance_prompt:
        return
    needed = _NEEDS.get(rules.strategy)
    if rules.strategy == "parquet" and entry.metadata_backend != "parquet":
        yield "caption_strategy", "'parquet' needs metadata_backend parquet, and the table in parquet"
    elif rules.strategy != "parquet" and needed is not None and entry.type != needed:
        yield "caption_strategy", f"'{rules.strategy}' needs type {needed}; this data set has type {entry.type}"


def _table(entry: DataBackend) -> Iterator[tuple[str, str]]:
    if entry.metadata_backend == "parquet" and entry.parquet is None:
        yield "parquet", "is required by metadata_backend parquet: an object with path, filename_column and more"
    if entry.metadata_backend != "parquet" and entry.parquet is not None:
        yield "parquet", "does nothing without metadata_backend parquet; set that too, or leave it out"
    if entry.metadata_backend in _NEEDS and entry.metadata_backend not in ("parquet", entry.type):
        needed = entry.metadata_backend
        yield "metadata_backend", f"'{needed}' needs type {needed}; this data set has type {entry.type}"


def _regularisation(entry: DataBackend) -> Iterator[tuple[str, str]]:
    """Options of regularisation data on data sets that are none."""
    if entry.is_regularisation_data and entry.dataset_type != "image":
        yield "is_regularisation_data", f"is for images to train on, and this is {entry.dataset_type}; leave it out"
    is_prior = entry.is_regularisation_data and entry.regularisation_mode == "prior"
    if entry.regularisation_mode == "prior" and not is_prior:
        yield "regularisation_mode", "acts only with is_regularisation_data; set that, or leave this out"
    for option in ("prior_loss_weight", "match_count"):
        given = entry.__dict__[option]
        if not is_prior and given != type(entry).model_fields[option].default:
            yield option, "needs is_regularisation_data and regularisation_mode prior; set both, or leave it out"


def _pairs(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    """Conditioning data sets that belong to nothing, and partners that are none."""
    links = conditions(entries)
    backends = {entry.id: entry for entry in entries if isinstance(entry, DataBackend)}
    used = {partner.id for partners in links.values() for partner in partners}
    for entry in backends.values():
        for id in entry.conditioning_data:
            if id in backends and backends[id].dataset_type != "conditioning":
                what = f"'{id}' has dataset_type {backends[id].dataset_type}; give it a conditioning_type"
                yield Problem(where(entry, "conditioning_data"), what)
        if entry.dataset_type == "conditioning":
            if entry.conditioning_type is None:
                choices = ", ".join(CONDITIONING_TYPES)
                yield Problem(where(entry, "conditioning_type"), f"is required; the choices are {choices}")
            yield from _own_partners(entry, links, backends)
            if entry.id not in used:
                what = "belongs to no data set; name it in conditioning_data of one, or set source_dataset_id"
                yield Problem(where(entry, "dataset_type"), what)
        elif entry.id in links and entry.dataset_type not in ("image", "eval"):
            yield Problem(where(entry, "conditioning_data"), "only images to train on or to measure with have partners")


def _own_partners(
    entry: DataBackend, links: Mapping[str, Sequence[DataBackend]], backends: Mapping[str, DataBackend]
) -> Iterator[Problem]:
    """Conditioning data sets with the very images that they belong to."""
    owners = [backends[id] for id, partners in links.items() if entry in partners and id in backends]
    for owner in owners:
        if entry.place is not None and entry.place == owner.place:
            what = f"has the images of '{owner.id}' themselves, so that each would belong to itself; name another place"
            yield Problem(where(entry, entry.place_option), what)


def _windows(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    """Data sets that end before they start, and runs that nothing starts with."""
    images = [entry for entry in entries if isinstance(entry, DataBackend) and entry.dataset_type == "image"]
    for entry in images:
        for start, end in (("start_epoch", "end_epoch"), ("start_step", "end_step")):
            first, last = entry.__dict__[start], entry.__dict__[end]
            if last is not None and 0 < last < first:
                yield Problem(where(entry, end), f"{last} is before {start}, {first}; swap them")
    active = [entry for entry in images if entry.probability > 0]
    if active and all(entry.start_epoch > 1 or entry.start_step > 1 for entry in active):
        what = "no data set is used from the beginning; give one of them start_epoch 1 and start_step 0"
        yield Problem("data file", what)


def _prompts(entry: DataBackend, rules: captions.Rules) -> Iterator[Problem]:
    reasons = {
        "only_instance_prompt": rules.only_instance_prompt,
        "prepend_instance_prompt": rules.prepend_instance_prompt,
        "caption_strategy instanceprompt": captions.CAPTION_STRATEGIES.get(rules.strategy)
        is captions.from_instance_prompt,
    }
    for reason, applies in reasons.items():
        if applies and not rules.instance_prompts:
            yield Problem(where(entry, "instance_prompt"), f"is required by {reason}")
            return


_NEEDS = {"csv": "csv", "huggingface": "huggingface", "webshart": "webshart", "parquet": "parquet"}
"""Strategies and metadata backends that only one type of data set has."""

_MOST_MEGAPIXELS = 20
_FEWEST_PIXELS = 16
_MOST_PIXELS = int(sqrt(geometry.LARGEST))
