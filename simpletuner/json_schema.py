"""config/schema.json, by which editors complete and check a config file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from simpletuner import legacy
from simpletuner.config import SECTIONS
from simpletuner.describing import SERVED, state_of

SCHEMA_ID = "http://json-schema.org/draft-07/schema#"


def text() -> str:
    """The schema with one line for each option, so that a change of one option is a change of one line."""
    return _one_line_each(json_schema())


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


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
