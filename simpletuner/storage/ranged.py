"""A file far away that is read piece by piece: only what is looked at travels."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

Fetch = Callable[[int, int], bytes]
"""Gives `length` bytes from `start` on: fetch(start, length); fewer only at the end of the file."""


def open_ranged(fetch: Fetch, head: bytes, size: int) -> BinaryIO:
    """A file that can be read and sought in; `head` are the bytes at its beginning that are known already."""
    return io.BufferedReader(RangedFile(fetch, head, size), buffer_size=_SMALLEST)


class RangedFile(io.RawIOBase):
    """Keeps one piece of the file; each further piece is larger, for who reads on mostly wants more."""

    def __init__(self, fetch: Fetch, head: bytes, size: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._piece, self._start = head, 0
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; nothing is fetched for that."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError("cannot go to a place before the beginning of a file")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer as far as the file goes."""
        view = memoryview(buffer).cast("B")
        wanted = max(min(len(view), self._size - self._position), 0)
        data = self._at(self._position, wanted)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _at(self, position: int, wanted: int) -> bytes:
        """Some of the wanted bytes: those of the piece that is here, or else of a new one."""
        if wanted and not self._start <= position < self._start + len(self._piece):
            length = max(wanted, min(2 * len(self._piece), _LARGEST), _SMALLEST)
            self._start, self._piece = position, self._fetch(position, min(length, self._size - position))
        offset = position - self._start
        return self._piece[offset : offset + wanted]


_SMALLEST = 16 * 2**10
_LARGEST = 2**20
