"""A store that forgets everything at the end of the process: for tests and for caches that need no disk."""

from __future__ import annotations

from collections.abc import Iterator

from simpletuner.storage.store import Entry, checked


class MemoryStore:
    """Keeps bytes in a dictionary."""

    def __init__(self, label: str = "") -> None:
        """`label` says whose memory it is, so that it can be told from others; each has its own without one."""
        self._label = label or f"{id(self):x}"
        self._data: dict[str, bytes] = {}
        self._versions: dict[str, int] = {}
        self._writes = 0

    @property
    def name(self) -> str:
        """No place that could be looked at."""
        return f"memory {self._label}"

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Everything whose key starts with `prefix`, in the order of the keys."""
        for key in sorted(self._data):
            if key.startswith(prefix):
                yield Entry(key, len(self._data[key]), str(self._versions[key]))

    def read(self, key: str) -> bytes:
        """The bytes under a key; KeyError when there are none."""
        return self._data[checked(key)]

    def write(self, key: str, data: bytes) -> None:
        """Keep bytes under a key, in place of what was there."""
        self._writes += 1
        self._data[checked(key)] = bytes(data)
        self._versions[key] = self._writes

    def __contains__(self, key: str) -> bool:
        """Whether there is something under this key."""
        return checked(key) in self._data

    def delete(self, key: str) -> None:
        """Forget what is under a key; nothing happens when there is nothing."""
        self._data.pop(checked(key), None)
        self._versions.pop(key, None)
