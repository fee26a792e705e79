"""What the sections say about themselves: OPTIONS.md, DATALOADER.md, config/schema.json and `simpletuner options`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr, WithJsonSchema
from pydantic.fields import FieldInfo

from simpletuner import legacy
from simpletuner.config import SECTIONS
from simpletuner.data.generators import GENERATORS, Generator
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import CACHES, SOURCES, DataBackend, Embeds
from simpletuner.schema import Choice, NoEffect, NotYet, Section, choice_of, marks
from simpletuner.storage.local import write_whole

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- generated: begin -->"
END = "<!-- generated: end -->"
SCHEMA_ID = "http://json-schema.org/draft-07/schema#"


def main() -> None:
    """Write every generated file anew, in the checkout that this module lies in."""
    for path, text in rendered(ROOT).items():
        write_whole(path, text.encode())


def rendered(root: Path) -> dict[Path, str]:
    """Every generated file and what it should contain; what people wrote around the markers is kept."""
    options, dataloader = root / "documentation" / "OPTIONS.md", root / "documentation" / "DATALOADER.md"
    return {
        options: _between(options.read_text(encoding="utf-8"), options_tables()),
        dataloader: _between(dataloader.read_text(encoding="utf-8"), dataloader_tables()),
        root / "config" / "schema.json": _one_line_each(json_schema()),
    }


def _between(page: str, generated: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{generated}\n\n{END}{after}"


def options_tables() -> str:
    """One table for each section of the config file."""
    return "\n\n".join(_titled(name.replace("_", " ").capitalize(), section) for name, section in SECTIONS.items())


def dataloader_tables() -> str:
    """The keys that all data sets share, those of each type and generator, and the defaults in the config file."""
    shared = ("Keys of every data set", "Entries with images, of whatever type.", DataBackend)
    caches = ("Keys of every cache", "Entries with `dataset_type` " + _names(CACHES) + ".", Embeds)
    parts = [_table(title, said, section.model_fields) for title, said, section in (shared, caches)]
    parts += [_own_keys("type", name, section, DataBackend) for name, section in SOURCES.images.items()]
    parts += [_own_keys("dataset_type", name, section, Embeds) for name, section in CACHES.items()]
    parts += [_all_generators(), *(_generator(section, names) for section, names in _generators().items())]
    said = _first_line(DataDefaults) + " These are written in the config file."
    return "\n\n".join([*parts, _table("Defaults in the config file", said, DataDefaults.model_fields)])


def _names(table: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in table)


def _own_keys(key: str, name: str, section: type[Section], base: type[Section]) -> str:
    later = f" Not served yet: {section.not_yet}." if section.not_yet else ""
    said = _first_line(section) + later
    fields = {option: field for option, field in section.model_fields.items() if option not in base.model_fields}
    title = f'`"{key}": "{name}"`'
    return _table(title, said, fields) if fields else f"## {title}\n\n{said} It has no further keys."


def _all_generators() -> str:
    said = "What the entries of `conditioning` can make; their keys stand beside `type`, or in `params`."
    later = (f"Not served yet: {names}: {advice}." for advice, names in _later(GENERATORS))
    return "\n\n".join(["## Keys of generators", said, *later])


def _generators() -> Mapping[type[Generator], Sequence[str]]:
    """Each generator with all of its names."""
    found: dict[type[Generator], list[str]] = {}
    for name, section in GENERATORS.items():
        found.setdefault(section, []).append(name)
    return found


def _generator(section: type[Generator], names: Sequence[str]) -> str:
    others = " and ".join(f"`{name}`" for name in names[1:])
    needs = "".join(f" Needs the module `{module}`: `{remedy}`." for module, remedy in section.needs.items())
    said = f"{_first_line(section)} Also called {others}. Mostly used as `{section.usual}`.{needs}"
    return _table(f'`"conditioning": {{"type": "{names[0]}"}}`', said, section.model_fields)


def _first_line(section: type[Section]) -> str:
    return (section.__doc__ or "").strip().partition("\n")[0]


def _titled(title: str, section: type[Section]) -> str:
    return _table(title, _first_line(section), section.model_fields)


def _table(title: str, said: str, fields: Mapping[str, FieldInfo]) -> str:
    """A heading, a sentence, and a table in which the options that are served come first."""
    by_state = sorted(fields.items(), key=lambda option: state_of(option[1]) != SERVED)
    rows = [row for name, field in by_state for row in _rows(name, field)]
    head = ["option", "type", "default", "meaning", "state"]
    lines = [_line(cells) for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join([f"## {title}", "", said, "", *lines])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rows(name: str, field: FieldInfo) -> Iterator[list[str]]:
    """The row of an option, then those of its choices, then those of the options inside it."""
    yield [f"`{name}`", type_of(field), _default(field), field.description or "", state_of(field)]
    choice = choice_of(field)
    if choice is not None:
        yield from ([" ", f"`{one}`", " ", choice.summary(one), SERVED] for one in choice)
        yield from ([" ", names, " ", " ", f"not served yet: {advice}"] for advice, names in _later(choice))
    if state_of(field) == SERVED:
        for inner in _sections_in(field.annotation):
            for option, part in inner.model_fields.items():
                yield from _rows(f"{name} › {option}", part)


def _later(choice: Choice[Any]) -> Iterator[tuple[str, str]]:
    """Names that are not served yet, together where the advice is the same."""
    advised = sorted(choice.later.items(), key=lambda one: one[1])
    for advice, group in groupby(advised, key=lambda one: one[1]):
        yield advice, ", ".join(f"`{name}`" for name, _ in group)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


SERVED = "served"


def state_of(field: FieldInfo) -> str:
    """Whether an option acts, and if not, why or what to do instead."""
    for mark in marks(field):
        if isinstance(mark, NotYet):
            return f"not served yet: {mark.instead}"
        if isinstance(mark, NoEffect):
            return f"no effect: {mark.why}"
    return SERVED


def type_of(field: FieldInfo) -> str:
    """What may be written, such as "whole number, at least 1"."""
    limits = [said for mark in field.metadata for said in _limit(mark)]
    written = next((mark.json_schema for mark in field.metadata if isinstance(mark, WithJsonSchema)), None)
    kind = _kind(field.annotation, is_choice=choice_of(field) is not None) if written is None else _kind_in(written)
    return ", ".join([kind, *limits])


def _limit(mark: object) -> Iterator[str]:
    match mark:
        case Ge(ge):
            yield f"at least {ge}"
        case Gt(gt):
            yield f"above {gt}"
        case Le(le):
            yield f"at most {le}"
        case Lt(lt):
            yield f"below {lt}"


def _kind(annotation: Any, *, is_choice: bool = False) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], is_choice=is_choice)
    if origin in (Union, UnionType):
        kinds = (_kind(part, is_choice=is_choice) for part in parts if part is not type(None))
        return " or ".join(dict.fromkeys(kinds))
    if origin is tuple:
        count = "" if Ellipsis in parts else f"{len(parts)} "
        return f"list of {count}{_several(_kind(parts[0], is_choice=is_choice))}"
    if origin is Mapping:
        return "object" if parts[1] is Any else f"object of {_several(_kind(parts[1]))}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "object"
    if is_choice and (annotation is str or origin is Literal):
        return "one of these"
    return _KINDS[annotation]


def _kind_in(schema: Mapping[str, Any]) -> str:
    """The same words for an option that is written in another form than it has afterwards."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind_in(one) for one in schema["anyOf"]))
    if schema["type"] == "array":
        return f"list of {_several(_kind_in(schema['items']))}"
    return _JSON_KINDS[schema["type"]]


def _several(kind: str) -> str:
    return " or ".join(_PLURALS.get(one, one) for one in kind.split(" or "))


_KINDS: Mapping[Any, str] = {
    Any: "anything",
    Path: "path",
    SecretStr: "secret text",
    bool: "true or false",
    float: "number",
    int: "whole number",
    str: "text",
}

_JSON_KINDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "object": "object",
    "string": "text",
}

_PLURALS = {
    "number": "numbers",
    "object": "objects",
    "one of these": "these",
    "path": "paths",
    "text": "texts",
    "whole number": "whole numbers",
}


def _default(field: FieldInfo) -> str:
    return {"": "", "required": "required"}.get(default_of(field), f"`{default_of(field)}`")


def default_of(field: FieldInfo) -> str:
    """The default as it would be written in a file; nothing when the option is simply not set."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if default is None or default == () else _json(default)


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def option_text(name: str, field: FieldInfo) -> str:
    """A few plain lines about one option, for a terminal."""
    default = default_of(field)
    facts = f"{type_of(field)}{f'; default {default}' if default not in {'', 'required'} else ''}"
    lines = [f"{name}: {facts}{'; required' if default == 'required' else ''}", f"  {field.description}"]
    choice = choice_of(field)
    if choice is not None:
        lines += [f"    {one:{_WIDTH}} {choice.summary(one)}" for one in choice]
        lines += [f"    not served yet, {advice}: {names.replace('`', '')}" for advice, names in _later(choice)]
    if state_of(field) != SERVED:
        lines.append(f"  {state_of(field)}")
    return "\n".join(lines)


_WIDTH = 24


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config file, by which editors complete and check it."""
    options: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for section in SECTIONS.values():
        made = section.model_json_schema()
        options |= {name: _property(section.model_fields[name], of) for name, of in made["properties"].items()}
        inner |= made.get("$defs", {})
    required = [name for section in SECTIONS.values() for name, of in section.model_fields.items() if of.is_required()]
    return {
        "$schema": SCHEMA_ID,
        "title": "Config of a training run",
        "type": "object",
        "properties": {"$schema": {"type": "string"}, **_both_spellings(options), **_both_spellings(_older())},
        "patternProperties": {"^[_$]": True, f"^(--)?({legacy.FOREIGN.pattern})$": _NO_MEANING},
        "additionalProperties": False,
        "allOf": [{"anyOf": [{"required": [name]}, {"required": [f"--{name}"]}]} for name in required],
        "$defs": {**inner, **{f"option.{name}": of for name, of in options.items()}},
    }


def _one_line_each(schema: Mapping[str, Any]) -> str:
    """JSON text with one line for each option, so that a change of one option is a change of one line."""
    parts = []
    for key, value in schema.items():
        if key in {"properties", "$defs"}:
            lines = ",\n".join(f"  {_json(name)}: {_json(one)}" for name, one in value.items())
            parts.append(f" {_json(key)}: {{\n{lines}\n }}")
        else:
            parts.append(f" {_json(key)}: {_json(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _both_spellings(options: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: {"$ref": f"#/$defs/option.{name}"} if "anyOf" in of else of for name, of in options.items()}
    return {**plain, **{f"--{name}": of for name, of in plain.items()}}


def _older() -> dict[str, Any]:
    renamed = {name: f"This is called {now} now." for name, now in legacy.RENAMED.items()}
    inverted = {name: f"This is the opposite of {now} now." for name, now in legacy.INVERTED.items()}
    said = {name: {"description": text, "deprecated": True} for name, text in {**renamed, **inverted}.items()}
    said |= dict.fromkeys(sorted(legacy.OF_DATA_SETS), _OF_DATA_SETS)
    return {**said, **dict.fromkeys(sorted(legacy.OBSOLETE), _NO_MEANING)}


_OF_DATA_SETS = {"description": "This is ignored here: each data set has its own.", "deprecated": True}
_NO_MEANING = {"description": "This is ignored.", "deprecated": True}


def _property(field: FieldInfo, made: Mapping[str, Any]) -> dict[str, Any]:
    """One option; like the reader of the file, it accepts null for "not set" and text for everything."""
    state = state_of(field)
    said = (field.description or "") + ("" if state == SERVED else f" ({state})")
    strict = {key: value for key, value in made.items() if key not in {"default", "description", "title"}}
    forms = [*strict.pop("anyOf", []), *([strict] if strict else [])]
    forms += [other for form in forms for other in _other_forms(form)] + [{"type": "null"}]
    unique = list({json.dumps(form, sort_keys=True): form for form in forms}.values())
    return {"description": said, **({"default": made["default"]} if "default" in made else {}), "anyOf": unique}


def _other_forms(form: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """How else a value may be written: nearly everything as text, as in many files, and text as a number."""
    match form.get("type"):
        case "string" if len(form) == 1:
            yield {"type": "number"}
        case "boolean":
            yield {"enum": ["true", "false", ""]}
        case "integer" | "number":
            yield {"type": "string", "pattern": "^[-+0-9.eE]*$"}
        case "array" | "object" | None:
            yield {"type": "string"}


if __name__ == "__main__":
    main()
