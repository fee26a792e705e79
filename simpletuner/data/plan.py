"""From the raw list of a data file to entries that fit together, or to everything that is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from simpletuner.data import captions, geometry
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import SOURCES, DataBackend, DataEntry, Embeds, ImageEmbeds, Local, TextEmbeds
from simpletuner.errors import Problem
from simpletuner.schema import Section, problems, refusals, without_effect

T = TypeVar("T")


def read_entries(
    raw: object, *, placeholders: Mapping[str, str] | None = None
) -> tuple[tuple[DataEntry, ...], list[Problem]]:
    """The entries of a data file that are not disabled, and what is wrong with those that cannot be read.

    Args:
        raw: What the JSON file holds.
        placeholders: What stands for ``{model_family}``, ``{output_dir}`` and the like in texts; ``{id}`` is known.
    """
    if not isinstance(raw, (list, tuple)) or not raw:
        return (), [Problem("data file", "must be a list with at least one data set in it")]
    entries: list[DataEntry] = []
    found: list[Problem] = []
    for number, given in enumerate(raw, start=1):
        entry = _read(given, number, placeholders or {}, found)
        if entry is not None and not entry.disabled:
            entries.append(entry)
    return _with_text_cache(entries), found


def check_entries(entries: Sequence[DataEntry], defaults: DataDefaults, *, complete: bool = True) -> list[Problem]:
    """What is wrong with the entries, alone and together; looks at nothing but the entries.

    Args:
        entries: What `read_entries` gave.
        defaults: What holds where an entry says nothing.
        complete: Whether all entries could be read; else nothing is said about entries that only seem to be missing.
    """
    return [
        *_ids(entries),
        *(_nothing_to_train_on(entries) if complete else ()),
        *_text_caches(entries),
        *(_references(entries) if complete else ()),
        *_shared_folders(entries, defaults),
        *(problem for entry in entries for problem in _alone(entry, defaults)),
    ]


def missing_folders(entries: Sequence[DataEntry]) -> list[Problem]:
    """The image folders that do not exist; this looks at the disk."""
    return [
        Problem(where(entry, "instance_data_dir"), _no_folder(entry.instance_data_dir))
        for entry in entries
        if isinstance(entry, Local) and not entry.instance_data_dir.is_dir()
    ]


def notices(entries: Sequence[DataEntry]) -> list[str]:
    """Options that were given and do nothing, each with the reason."""
    return [f"{where(entry, name)} has no effect: {why}" for entry in entries for name, why in without_effect(entry)]


def where(entry: DataEntry, *path: str) -> str:
    """A place in the data file in the user's words: "data set 'subject' › resolution"."""
    return _place(entry.id, path)


def geometry_rules(entry: DataBackend, defaults: DataDefaults) -> geometry.Rules:
    """How a data set wants its images, with the defaults of the run where it says nothing."""
    return geometry.Rules(
        resolution=_own(entry.resolution, defaults.resolution),
        resolution_type=_own(entry.resolution_type, defaults.resolution_type),
        crop=entry.crop,
        crop_style=entry.crop_style,
        crop_aspect=entry.crop_aspect,
        minimum_image_size=_own(entry.minimum_image_size, defaults.minimum_image_size),
        maximum_image_size=_own(entry.maximum_image_size, defaults.maximum_image_size),
        target_downsample_size=_own(entry.target_downsample_size, defaults.target_downsample_size),
        minimum_aspect_ratio=entry.minimum_aspect_ratio,
        maximum_aspect_ratio=entry.maximum_aspect_ratio,
        aspect_bucket_rounding=_own(entry.aspect_bucket_rounding, defaults.aspect_bucket_rounding),
    )


def caption_rules(entry: DataBackend, defaults: DataDefaults) -> captions.Rules:
    """How a data set makes captions, with the defaults of the run where it says nothing."""
    return captions.Rules(
        strategy=_own(entry.caption_strategy, defaults.caption_strategy),
        instance_prompts=_own(entry.instance_prompt, defaults.instance_prompt),
        prepend_instance_prompt=_own(entry.prepend_instance_prompt, defaults.prepend_instance_prompt),
        only_instance_prompt=_own(entry.only_instance_prompt, defaults.only_instance_prompt),
        disable_multiline_split=_own(entry.disable_multiline_split, defaults.disable_multiline_split),
    )


def captions_folder(entry: DataBackend, entries: Sequence[DataEntry], defaults: DataDefaults, *, cache: Path) -> Path:
    """Where the encoded captions of a data set are kept; `cache` is the folder for all caches."""
    caches = [one for one in entries if isinstance(one, TextEmbeds)]
    chosen = (one for one in caches if (one.id == entry.text_embeds if entry.text_embeds else one.default))
    own = next(chosen, None)
    return (own and own.cache_dir) or defaults.cache_dir_text or cache / "text"


def latents_folder(entry: DataBackend, entries: Sequence[DataEntry], defaults: DataDefaults, *, cache: Path) -> Path:
    """Where the encoded images of a data set are kept; `cache` is the folder for all caches."""
    caches = [one for one in entries if isinstance(one, ImageEmbeds)]
    chosen = (one for one in caches if (one.id == entry.image_embeds if entry.image_embeds else one.default))
    shared = next(chosen, None)
    return entry.cache_dir_vae or (shared and shared.cache_dir) or defaults.cache_dir_vae or cache / "vae"


def _own(own: T | None, default: T) -> T:
    return default if own is None else own


def _read(given: object, number: int, placeholders: Mapping[str, str], found: list[Problem]) -> DataEntry | None:
    """One entry; adds to what was found when it cannot be read."""
    if not isinstance(given, Mapping):
        found.append(Problem(f"data set number {number}", f"must be an object in braces, got {given!r}"))
        return None
    filled = _filled(given, {**placeholders, "id": str(given.get("id", ""))})
    if _is_disabled(filled):
        return None
    id = filled.get("id") or number
    try:
        section = SOURCES.section_for(filled)
        entry = section.model_validate(filled)
    except PydanticCustomError as error:
        found.append(Problem(_place(id, ["type"]), error.message()))
    except ValidationError as error:
        if section.not_yet:
            found.append(_not_served(id, filled.get("type"), section))
        found.extend(problems(error, section.model_fields, lambda path: _place(id, map(str, path)), page=_PAGE))
    else:
        assert isinstance(entry, (DataBackend, Embeds))
        return entry
    return None


def _not_served(id: object, kind: object, section: type[Section]) -> Problem:
    return Problem(_place(id, ["type"]), f"'{kind}' is not served yet; {section.not_yet}")


def _place(id: object, path: Iterable[str]) -> str:
    name = f"data set number {id}" if isinstance(id, int) else f"data set '{id}'"
    return " › ".join([name, *path])


def _is_disabled(given: Mapping[str, Any]) -> bool:
    """A disabled entry may be as wrong as it likes."""
    return any(str(given.get(key, "")).lower() in {"true", "1", "yes"} for key in ("disabled", "disable"))


def _filled(value: Any, placeholders: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in placeholders.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, Mapping):
        return {key: _filled(part, placeholders) for key, part in value.items()}
    return [_filled(part, placeholders) for part in value] if isinstance(value, (list, tuple)) else value


def _with_text_cache(entries: Sequence[DataEntry]) -> tuple[DataEntry, ...]:
    """Make sure that there is one default cache for captions, unless that is for the user to decide."""
    caches = [entry for entry in entries if isinstance(entry, TextEmbeds)]
    if not caches:
        return (*entries, TextEmbeds(id="text-embeds", default=True))
    if any(cache.default for cache in caches):
        return tuple(entries)
    first = caches[0]
    return tuple(entry.model_copy(update={"default": True}) if entry is first else entry for entry in entries)


def _ids(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    for id, count in Counter(entry.id for entry in entries).items():
        if count > 1:
            yield Problem(_place(id, ["id"]), f"{count} entries are called '{id}'; give each one its own id")


def _nothing_to_train_on(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    images = [entry for entry in entries if isinstance(entry, DataBackend) and entry.dataset_type == "image"]
    if not images:
        yield Problem("data file", "has no data set with images; add one with type local and instance_data_dir")
    elif all(entry.probability <= 0 for entry in images):
        yield Problem("data file", "the probability of every data set is 0; give one of them a larger one")


def _text_caches(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    defaults = [entry for entry in entries if isinstance(entry, TextEmbeds) and entry.default]
    for entry in defaults[1:]:
        yield Problem(where(entry, "default"), f"'{defaults[0].id}' is the default already; only one entry can be")


def _references(entries: Sequence[DataEntry]) -> Iterator[Problem]:
    texts = {entry.id for entry in entries if isinstance(entry, TextEmbeds)}
    caches = {entry.id for entry in entries if isinstance(entry, Embeds)}
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


def _alone(entry: DataEntry, defaults: DataDefaults) -> Iterator[Problem]:
    if entry.not_yet:
        yield _not_served(entry.id, entry.type, type(entry))
        return
    for name, remedy in _refusals(entry):
        yield Problem(where(entry, name), remedy)
    if isinstance(entry, DataBackend) and entry.dataset_type == "image":
        yield from _sizes(entry, geometry_rules(entry, defaults))
        yield from _prompts(entry, caption_rules(entry, defaults))


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
    return None


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


def _no_folder(folder: Path) -> str:
    if folder.exists():
        return f"{folder} is a file, not a folder; name the folder that your images are in"
    return f"there is no folder {folder}; make it and put your images there, or name another one"


_PAGE = "documentation/DATALOADER.md"
_MOST_MEGAPIXELS = 20
_FEWEST_PIXELS = 16
