"""A part of the memory that looks like a folder: every option is known, none is served yet."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from simpletuner.data.sources.base import DataBackend
from simpletuner.schema import Section


class MemoryFolder(Section):
    """How a part of the memory becomes a folder."""

    memory_filesystem_path: Path | None = None
    """Where it appears."""
    memory_filesystem_size: str | int | None = None
    """How large it may become, such as 8G."""
    memory_filesystem_sudo: bool = False
    """Asks the system for the right to make it."""


class Memory(DataBackend, MemoryFolder):
    """Known from SimpleTuner for caches in memory; images cannot be there."""

    not_yet: ClassVar[str] = "use type local, on a memory disk if you like"
