"""Names of cache entries: a listing alone says what an entry was made of, and so why another one is missing.

A name has three parts: what was encoded (the bytes of an image, or a text), what was done to it first (resize and
crop), and what encoded it. Whatever changes, one part of the name changes, and the other two still tell what is alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

_FORMAT = "tensors-2"
"""Part of every recipe: entries that another version of this file format made are never mistaken for ours."""


class Name(NamedTuple):
    """The three parts of the name of an entry, each a hash in hexadecimal digits."""

    content: str
    plan: str
    recipe: str

    @property
    def key(self) -> str:
        """Where the entry is in a store."""
        return f"{self.content[:2]}/{self.content}-{self.plan}-{self.recipe}.safetensors"


def hash_of_content(text: str) -> str:
    """The part of a name that stands for what was encoded."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def hash_of_plan(text: str) -> str:
    """The part of a name that stands for what was done first."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def hash_of_recipe(text: str) -> str:
    """The part of a name that stands for what encoded it."""
    return blake2b(f"{_FORMAT}/{text}".encode(), digest_size=8).hexdigest()


def parsed(key: str) -> Name | None:
    """The parts of the name of an entry; nothing for a file that is none of ours."""
    found = _OURS.fullmatch(key)
    return Name(*found.group(2, 3, 4)) if found else None


def is_of_an_earlier_version(key: str) -> bool:
    """Whether this is an entry that the first version of this project wrote; nothing reads those any more."""
    return _EARLIER.fullmatch(key) is not None


_OURS = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{30})-([0-9a-f]{16})-([0-9a-f]{16})\.safetensors")
_EARLIER = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{30}\.safetensors")


@dataclass(frozen=True)
class Reasons:
    """How many entries are missing, by the reason."""

    new: int = 0
    plan: int = 0
    recipe: int = 0

    @property
    def total(self) -> int:
        """How many are missing altogether."""
        return self.new + self.plan + self.recipe

    def __add__(self, other: Reasons) -> Reasons:
        return Reasons(self.new + other.new, self.plan + other.plan, self.recipe + other.recipe)

    def __str__(self) -> str:
        parts = {
            "new": self.new,
            "because crop or resolution changed": self.plan,
            "because the encoder changed": self.recipe,
        }
        return ", ".join(f"{count:,} {why}" for why, count in parts.items() if count)


def reasons(missing: Iterable[str], present: Collection[str]) -> Reasons:
    """Why entries are missing, told from those that are there and that nobody asks for any more.

    Args:
        missing: Names of entries that are asked for.
        present: Names of entries that are there and are not asked for.
    """
    names = [name for key in missing if (name := parsed(key))]
    wanted = {name.content for name in names}
    kin: dict[str, set[str]] = {}
    for key in present:
        if (name := parsed(key)) and name.content in wanted:
            kin.setdefault(name.content, set()).add(name.recipe)
    plan = sum(name.recipe in kin.get(name.content, ()) for name in names)
    known = sum(name.content in kin for name in names)
    return Reasons(new=len(names) - known, plan=plan, recipe=known - plan)
