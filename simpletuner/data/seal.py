"""A checksum inside a Parquet file, so that no bit of it can change unnoticed; other programs read it as before.

It stands between the columns and the footer, where no offset points to. Parquet's own checksums leave the footer out.
"""

from __future__ import annotations

import xxhash

_SIZE = 16
_TAIL = 8
"""The length of the footer, and the mark at the end of the file."""


def sealed(parquet: bytes) -> bytes:
    """The same file with the checksum in it."""
    end = _footer(parquet)
    return b"".join([parquet[:end], xxhash.xxh3_128_digest(parquet), parquet[end:]])


def is_whole(found: bytes) -> bool:
    """Whether a file is what `sealed` gave."""
    end = _footer(found)
    if end < _SIZE:
        return False
    checksum = xxhash.xxh3_128(found[: end - _SIZE])
    checksum.update(found[end:])
    return checksum.digest() == found[end - _SIZE : end]


def _footer(parquet: bytes) -> int:
    """Where the footer begins; 0 or less when there is none."""
    length = int.from_bytes(parquet[-_TAIL:-4], "little")
    return len(parquet) - _TAIL - length
