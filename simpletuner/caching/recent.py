"""A store in memory that keeps what was used last and forgets the rest: for caches that must leave no trace."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from simpletuner.storage.store import Entry, checked

LIMIT = 2 << 30
"""How many bytes are kept: two gigabytes, about a thousand images of 1024 pixels, or five hundred captions."""


class RecentStore:
    """Keeps bytes up to a limit; what was not used for longest goes first."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._data: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """No place that could be looked at."""
        return f"memory {id(self):x}"

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """What is kept at this moment and whose key starts with `prefix`, in the order of the keys."""
        with self._lock:
            kept = sorted((key, len(data)) for key, data in self._data.items() if key.startswith(prefix))
        yield from (Entry(key, size, str(size)) for key, size in kept)

    def read(self, key: str) -> bytes:
        """The bytes under a key; KeyError when there are none, or none any more."""
        with self._lock:
            self._data.move_to_end(checked(key))
            return self._data[key]

    def write(self, key: str, data: bytes) -> None:
        """Keep bytes under a key; what was not used for longest makes room for them."""
        with self._lock:
            self._drop(checked(key))
            self._data[key] = bytes(data)
            self._size += len(data)
            while self._size > self._limit and len(self._data) > 1:
                self._drop(next(iter(self._data)))

    def __contains__(self, key: str) -> bool:
        """Whether there is something under this key."""
        return checked(key) in self._data

    def delete(self, key: str) -> None:
        """Forget what is under a key; nothing happens when there is nothing."""
        with self._lock:
            self._drop(checked(key))

    def _drop(self, key: str) -> None:
        self._size -= len(self._data.pop(key, b""))
