"""The building blocks of every config file: strict sections, named choices, and options that are not served yet.

An option is declared once, as an annotated attribute of a `Section` with a docstring. Validation, ``--help``,
OPTIONS.md, the JSON Schema and the hints in error messages are all derived from that declaration.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, PydanticUndefined, core_schema

T = TypeVar("T")


@dataclass(frozen=True)
class NotYet:
    """Marks an option that is known and typed but not served yet: any value but the default is refused."""

    instead: str
    """The nearest way that is served, as advice: "use fp8-torchao"."""


@dataclass(frozen=True)
class NoEffect:
    """Marks an option that is accepted and does nothing for FLUX; changing it gives a notice."""

    why: str


class IfChanged(Enum):
    """What follows when an option is another one than in the run that made the checkpoint; also a mark of an option."""

    FINE = "goes on without a word"
    TOLD = "goes on, and says that it is not the run any more that it would have been"
    REFUSED = "does not go on"


def belongs_to(option: str) -> NoEffect:
    """Marks an option that only acts together with another one, which is not served yet."""
    return NoEffect(f"it belongs to {option}, which is not served yet")


class Section(BaseModel):
    """A frozen group of options; a key it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        str_strip_whitespace=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    not_yet: ClassVar[str] = ""
    """Set by a section that is known but not served yet as a whole: the nearest way that is served."""

    if_changed: ClassVar[IfChanged] = IfChanged.FINE
    """What follows for a run that goes on from a checkpoint when an option of this section was changed."""

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, given: Any) -> Any:
        """A null, or an empty string where it means nothing, means that the option is not set."""
        if not isinstance(given, Mapping):
            return given
        fields = cls.model_fields
        plain = {key: _plain(value, fields[key]) if key in fields else value for key, value in given.items()}
        return {key: value for key, value in plain.items() if value is not None}


def _plain(value: Any, field: FieldInfo) -> Any:
    """The value without outer blanks, or nothing when the option is not set by it."""
    kinds = {field.annotation, *get_args(field.annotation)}
    if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
        return str(value).lower()  # a switch is no number, although Python takes true for 1
    text = value.strip() if isinstance(value, str) and not _keeps_blanks(field) else value
    if isinstance(text, str) and Path in kinds:
        text = expanduser(text)
    can_be_empty = str in kinds and choice_of(field) is None and field.default not in (None, PydanticUndefined)
    return None if text == "" and not can_be_empty else text


def _keeps_blanks(field: FieldInfo) -> bool:
    return any(isinstance(mark, StringConstraints) and mark.strip_whitespace is False for mark in field.metadata)


class Named(Mapping[str, T], Generic[T]):
    """A fixed table of things of one kind. The name is what a user writes in JSON, in capitals or small letters."""

    def __init__(
        self,
        noun: str,
        entries: Mapping[str, T],
        later: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Keep a table.

        Args:
            noun: What the entries are, in messages.
            entries: The things by name.
            later: Names that are known but not served yet, each with the nearest served name.
            aliases: Other programs' names, each with ours; they go before one of ours that is not spelled exactly.
        """
        self.noun = noun
        self.later = dict(later or {})
        self.aliases = dict(aliases or {})
        self._entries = dict(entries)
        own = {name: name for name in (*self._entries, *self.later)}
        self._by_letters = {**_by_letters(own), **_by_letters(self.aliases)}

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def summary(self, name: str) -> str:
        """First line of the entry's docstring and its other names: the text shown in help, docs and the web form."""
        said = (self[name].__doc__ or "").strip().partition("\n")[0]
        others = ", ".join(alias for alias, ours in self.aliases.items() if ours == name)
        return f"{said} Also called {others}." if others else said

    def ours(self, value: Any) -> str | None:
        """Our name for what a user wrote, if it is known."""
        name = str(value).strip()
        return name if name in self or name in self.later else self._by_letters.get(_letters(name))

    def check(self, value: Any) -> str:
        """Our name, when the name is known; otherwise an error that names the nearest one."""
        if ours := self.ours(value):
            return ours
        name = str(value).strip()
        hint = did_you_mean(name, self) or did_you_mean(name, self.later)
        raise PydanticCustomError(
            "unknown_choice",
            "no {noun} is called '{name}'; {hint}the choices are {names}",
            {"noun": self.noun, "name": name, "hint": hint, "names": self._names()},
        )

    def _names(self) -> str:
        """All names, or the first of very many."""
        names = list(self)
        more = len(names) - _MOST
        return ", ".join(names) if more <= 0 else f"{', '.join(names[:_MOST])} and {more} more"


_MOST = 30


def _by_letters(names: Mapping[str, str]) -> dict[str, str]:
    """What names stand for by their letters alone, but for letters that stand for several things."""
    meant: dict[str, set[str]] = {}
    for name, ours in names.items():
        meant.setdefault(_letters(name), set()).add(ours)
    return {letters: ours for letters, (ours, *others) in meant.items() if not others}


def _letters(name: str) -> str:
    return name.lower().replace("-", "_")


class Choice(Named[T]):
    """Choices picked by name alone: ``"optimizer": "adamw_bf16"``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, core_schema.str_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        known = [{"const": name, "description": self.summary(name)} for name in self]
        later = [{"const": name, "description": "Not served yet."} for name in self.later]
        others = [{"const": name, "description": f"This is called {ours} here."} for name, ours in self.aliases.items()]
        return {"type": "string", "oneOf": known + later + others}


def words(noun: str, meanings: Mapping[str, str], later: Mapping[str, str] | None = None) -> Choice[Word]:
    """Choices that are nothing but a word with a meaning: ``words("crop style", {"center": "..."})``."""
    return Choice(noun, {name: Word(meaning) for name, meaning in meanings.items()}, later)


class Word:
    """One word of a choice; its docstring is its meaning."""

    def __init__(self, meaning: str) -> None:
        self.__doc__ = meaning


class Variant(Named[type[Section]]):
    """Choices that bring their own options: ``{"type": "local", "instance_data_dir": "..."}``."""

    def __init__(self, noun: str, entries: Mapping[str, type[Section]], default: str, key: str = "type") -> None:
        super().__init__(noun, entries)
        self.default = default
        self.key = key

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        union = core_schema.tagged_union_schema(
            {name: handler.generate_schema(section) for name, section in self.items()}, self.key
        )
        return core_schema.no_info_before_validator_function(self._known, union)

    def _known(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {**value, self.key: self.check(value.get(self.key) or self.default)}


def conflict(options: str, message: str) -> PydanticCustomError:
    """What a section raises when options of it do not go together; `options` are their names, with commas."""
    return PydanticCustomError("conflict", "{message}", {"options": options, "message": message})


def _as_list(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):  # as a list in JSON has to be written where only text is possible
            return json.loads(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value if isinstance(value, (list, tuple)) else [value]


Listed = BeforeValidator(_as_list)
TextList = Annotated[tuple[str, ...], Listed]
"""Several words: a JSON list, or one string with commas."""

NumberList = Annotated[tuple[float, ...], Listed]
"""Several numbers: a JSON list, or one string with commas."""


_CLOSE = 0.75
"""How alike two names are before one counts as a mistyped other, and not as a part of it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the nearest known name, ready to stand in a sentence; empty when none is near."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=_CLOSE) or [one for one in names if one.startswith(name)]
    near = near or get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'? " if near else ""


def choice_of(field: FieldInfo) -> Choice[Any] | None:
    """The table an option picks its value from, if it does."""
    return next((mark for mark in marks(field) if isinstance(mark, Choice)), None)


def marks(field: FieldInfo) -> Iterator[Any]:
    """Everything that is annotated on an option, inside an optional type too."""
    yield from field.metadata
    for part in get_args(field.annotation):
        if get_origin(part) is Annotated:
            yield from get_args(part)[1:]


def if_changed(section: type[Section], option: str) -> IfChanged:
    """What follows when an option was changed since a checkpoint: as the option says, or else its section."""
    found = (mark for mark in marks(section.model_fields[option]) if isinstance(mark, IfChanged))
    return next(found, section.if_changed)


def refusals(section: Section) -> Iterator[tuple[str, str]]:
    """The options of a section that ask for something not served yet, each with what to do instead."""
    for name in sorted(section.model_fields_set):
        field = type(section).model_fields[name]
        value = section.__dict__[name]
        for mark in marks(field):
            if isinstance(mark, NotYet) and value != field.get_default(call_default_factory=True):
                yield name, f"{shown(value)} is not served yet; {mark.instead}"
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(mark, Choice) and one in mark.later:
                    yield name, f"'{one}' is not served yet; {mark.later[one]}"


def without_effect(section: Section) -> Iterator[tuple[str, str]]:
    """The options of a section that were changed from their defaults and do nothing, each with the reason."""
    for name in sorted(section.model_fields_set):
        field = type(section).model_fields[name]
        if section.__dict__[name] != field.get_default(call_default_factory=True):
            yield from ((name, mark.why) for mark in marks(field) if isinstance(mark, NoEffect))


def shown(value: object) -> str:
    """A value as the user wrote it."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 80
