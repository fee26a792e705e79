"""From the raw list of a data file to entries, or to everything that is wrong with each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from simpletuner.complaints import problems
from simpletuner.data.generators.expansion import expand, wrong_generators
from simpletuner.data.sections import CaptionPipeline
from simpletuner.data.sources import SOURCES, DataBackend, DataEntry, Embeds, Local, TextEmbeds
from simpletuner.errors import Problem
from simpletuner.schema import Section


def read_entries(
    raw: object, *, placeholders: Mapping[str, str] | None = None
) -> tuple[tuple[DataEntry, ...], list[Problem]]:
    """The entries of a data file that are not disabled, and what is wrong with those that cannot be read.

    Args:
        raw: What the JSON file holds.
        placeholders: What stands for ``{model_family}``, ``{output_dir}`` and the like in texts; ``{id}`` is known.
    """
    if not isinstance(raw, (list, tuple)) or not raw:
        return (), [Problem("data file", _no_list(raw))]
    entries: list[DataEntry] = []
    found: list[Problem] = []
    for number, given in enumerate(raw, start=1):
        entry = _read(given, number, placeholders or {}, found)
        if entry is not None and not entry.disabled:
            entries.append(entry)
    if not entries and not found:
        found.append(Problem("data file", "every data set in it is disabled; take disabled out of one of them"))
    _, wrong = expand(entries)
    return _with_text_cache(entries), [*found, *wrong]


def missing_folders(entries: Sequence[DataEntry]) -> list[Problem]:
    """The image folders that do not exist; this looks at the disk."""
    return [
        Problem(where(entry, "instance_data_dir"), _no_folder(entry.instance_data_dir))
        for entry in entries
        if isinstance(entry, Local) and not entry.instance_data_dir.is_dir()
    ]


def where(entry: DataEntry, *path: str) -> str:
    """A place in the data file in the user's words: "data set 'subject' › resolution"."""
    return place(entry.id, path)


def _read(given: object, number: int, placeholders: Mapping[str, str], found: list[Problem]) -> DataEntry | None:
    """One entry; adds to what was found when it cannot be read."""
    if not isinstance(given, Mapping):
        found.append(Problem(f"data set number {number}", f"must be an object in braces, got {given!r}"))
        return None
    own = {key: value for key, value in given.items() if not str(key).startswith(("$", "_"))}  # comments, as elsewhere
    filled = _filled(own, {**placeholders, "id": str(given.get("id", ""))})
    if _is_disabled(filled):
        return None
    id = filled.get("id") or number
    try:
        filled = SOURCES.named(filled)
        section = SOURCES.section_for(filled)
        foreign = dict(_foreign(filled, section))
        found += [Problem(place(id, [key]), what) for key, what in foreign.items()]
        entry = section.model_validate({key: value for key, value in filled.items() if key not in foreign})
    except PydanticCustomError as error:
        found.append(Problem(place(id, ["type"]), error.message()))
    except ValidationError as error:
        if section.not_yet:
            found.append(not_served(id, filled.get("type"), section))
        found.extend(problems(error, section.model_fields, lambda path: place(id, map(str, path)), page=_PAGE))
        if issubclass(section, DataBackend):
            found.extend(wrong_generators(str(id), filled.get("conditioning", ())))
    else:
        assert isinstance(entry, (DataBackend, Embeds))
        return None if foreign else entry
    return None


def _foreign(given: Mapping[str, Any], section: type[Section]) -> Iterator[tuple[str, str]]:
    """Options that sd-scripts has here and that are elsewhere in this data file, or have another name."""
    for key in given:
        if key in section.model_fields or not issubclass(section, DataBackend):
            continue
        if key in CaptionPipeline.model_fields:
            yield key, "belongs into caption_pipeline, an object of its own in this entry; move it there"
        elif key in _OTHER_NAMES:
            yield key, f"is called {_OTHER_NAMES[key]} here"


def not_served(id: object, kind: object, section: type[Section]) -> Problem:
    """What is said of an entry of a type that is known and not served."""
    return Problem(place(id, ["type"]), f"'{kind}' is not served yet; {section.not_yet}")


def place(id: object, path: Iterable[str]) -> str:
    """A place in the data file by the id of an entry, or by its number where it has none."""
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


def _no_list(raw: object) -> str:
    wanted = "must be a list with at least one data set in it"
    return f"{wanted}, and is an object: put the data sets into [ and ]" if isinstance(raw, Mapping) and raw else wanted


def _no_folder(folder: Path) -> str:
    if folder.exists():
        return f"{folder} is a file, not a folder; name the folder that your images are in"
    return f"there is no folder {folder}; make it and put your images there, or name another one"


_PAGE = "documentation/DATALOADER.md"

_OTHER_NAMES = {
    "image_dir": "instance_data_dir",
    "class_tokens": "instance_prompt",
    "num_repeats": "repeats, which counts one less,",
    "batch_size": "train_batch_size",
    "is_reg": "is_regularisation_data",
    "conditioning_data_dir": "conditioning_data, which names another entry,",
}
"""Options of a data set in sd-scripts, by our names for them."""
