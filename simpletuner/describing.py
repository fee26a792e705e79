"""An option in words: what may be written, what is taken when nothing is, and whether it acts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr, WithJsonSchema
from pydantic.fields import FieldInfo

from simpletuner.schema import Choice, NoEffect, NotYet, Section, choice_of, marks

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


def default_of(field: FieldInfo) -> str:
    """The default as it would be written in a file; nothing when the option is simply not set."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if default is None or default == () else json.dumps(default, default=str, ensure_ascii=False)


def later_of(choice: Choice[Any]) -> Iterator[tuple[str, str]]:
    """Names that are not served yet, together where the advice is the same."""
    advised = sorted(choice.later.items(), key=lambda one: one[1])
    for advice, group in groupby(advised, key=lambda one: one[1]):
        yield advice, ", ".join(f"`{name}`" for name, _ in group)


def in_one_line(text: str) -> str:
    """A description of several paragraphs as one line."""
    return " ".join(text.split("\n\n")).replace("\n", " ")


def option_text(name: str, field: FieldInfo) -> str:
    """A few plain lines about one option, for a terminal."""
    default = default_of(field)
    facts = f"{type_of(field)}{f'; default {default}' if default not in {'', 'required'} else ''}"
    lines = [
        f"{name}: {facts}{'; required' if default == 'required' else ''}",
        f"  {in_one_line(field.description or '')}",
    ]
    choice = choice_of(field)
    if choice is not None:
        width = max(_WIDTH, *map(len, choice))
        lines += [f"    {one:{width}} {choice.summary(one)}" for one in choice]
        lines += [f"    not served yet, {advice}: {names.replace('`', '')}" for advice, names in later_of(choice)]
    if state_of(field) != SERVED:
        lines.append(f"  {state_of(field)}")
    return "\n".join(lines)


_WIDTH = 24
