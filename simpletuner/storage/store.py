"""The one thing every place for files can do: keep bytes under a key, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """One stored thing, as a listing shows it."""

    key: str
    """A path with forward slashes, relative to the root of the store."""
    size: int
    version: str
    """Changes whenever the content may have changed."""


class Store(Protocol):
    """Keeps bytes under keys. A reader never sees half of a write."""

    @property
    def name(self) -> str:
        """Where it is, as the user would look for it; two stores of one name are the same place."""

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Everything whose key starts with `prefix`, in the order of the keys."""

    def read(self, key: str) -> bytes:
        """The bytes under a key; KeyError when there are none."""

    def write(self, key: str, data: bytes) -> None:
        """Keep bytes under a key, in place of what was there; DataError when the place does not take them."""

    def __contains__(self, key: str) -> bool:
        """Whether there is something under this key."""

    def delete(self, key: str) -> None:
        """Forget what is under a key; nothing happens when there is nothing."""


def checked(key: str) -> str:
    """The key itself; a key that would leave the store is a mistake in the program."""
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts:
        raise ValueError(f"{key!r} is not a key: it must be a path inside the store")
    return key
