"""A store in a bucket of any S3-compatible service."""

from __future__ import annotations

import re
from collections.abc import Iterator

from simpletuner.storage.retries import Patience
from simpletuner.storage.s3_client import Address
from simpletuner.storage.s3_objects import Found, Objects
from simpletuner.storage.store import Entry, checked


class S3Store:
    """Keeps each key as an object whose name begins with a prefix; a write appears whole or not at all."""

    def __init__(self, address: Address, prefix: str = "", *, patience: Patience | None = None) -> None:
        """`prefix` is a folder in the bucket; nothing is asked of the service yet."""
        self.address = address
        self.prefix = folder_prefix(prefix)
        self._objects = Objects(address, patience)

    @property
    def name(self) -> str:
        """Such as s3://bucket/prefix; services other than Amazon's are named too."""
        return self.address.named(self.prefix.rstrip("/"))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Everything whose key starts with `prefix`, in the order of the keys."""
        found = self._objects.list(self.prefix + prefix)
        yield from sorted(self._entry(one) for one in found if not one.key.endswith("/"))

    def read(self, key: str) -> bytes:
        """The bytes under a key; KeyError when there are none, DataError when the bucket does not give them."""
        return self._objects.read(self._full(key))

    def read_part(self, key: str, start: int, length: int) -> bytes:
        """Some of the bytes under a key, fewer at its end; KeyError when there are none."""
        return self._objects.read_part(self._full(key), start, length).data

    def write(self, key: str, data: bytes) -> None:
        """Keep bytes under a key; DataError when the bucket does not take them."""
        self._objects.write(self._full(key), data)

    def __contains__(self, key: str) -> bool:
        """Whether there is something under this key."""
        return self._objects.size(self._full(key)) is not None

    def delete(self, key: str) -> None:
        """Remove the object of a key; nothing happens when there is none."""
        self._objects.delete(self._full(key))

    def _full(self, key: str) -> str:
        return self.prefix + checked(key)

    def _entry(self, found: Found) -> Entry:
        return Entry(found.key[len(self.prefix) :], found.size, version_of(found))


def version_of(found: Found) -> str:
    """What tells one content of an object from another without reading it; empty when nothing does.

    The time of a write is part of it only where the tag may stay the same: services that show a folder of files as a
    bucket give all objects one tag, and an object that is written again as it was needs no second look elsewhere.
    """
    if is_checksum(found.etag):
        return f"{found.size}-{found.etag}"
    return f"{found.size}-{found.etag}-{found.modified}" if found.modified else ""


def is_checksum(etag: str) -> bool:
    """Whether a tag looks like a checksum of the content; only zeros are what services give that have none."""
    return re.fullmatch(r"[0-9a-f]{32}(-\d+)?", etag) is not None and set(etag[:32]) != {"0"}


def folder_prefix(*folders: str) -> str:
    """What the keys in a folder of a bucket begin with: "photos/2024/"; empty for the whole bucket."""
    parts = [part for folder in folders for part in folder.split("/") if part not in ("", ".")]
    return "".join(f"{part}/" for part in parts)
