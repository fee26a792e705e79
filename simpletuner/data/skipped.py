"""Lists for people: which images are left out, have no caption or no partner, and why. One a line, with tabs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simpletuner.data.manifest import Skipped
from simpletuner.data.sources.base import Source
from simpletuner.storage.local import LocalStore


def write_skip_list(path: Path, source: Source, skipped: Sequence[Skipped]) -> None:
    """Name every image that is left out and why, one a line; no list when there is nothing to tell."""
    write_table(path, [(source.name(entry.key), entry.reason, entry.detail) for entry in skipped])


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """A text file with one row a line and tabs between the cells; the file goes when there are no rows."""
    store = LocalStore(path.parent)
    lines = ("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
    wanted = "".join(lines).encode("utf-8", errors="backslashreplace")
    is_there = path.name in store
    if not rows and is_there:
        store.delete(path.name)
    if rows and not (is_there and store.read(path.name) == wanted):  # a full cache may lie on a read-only disk
        store.write(path.name, wanted)
