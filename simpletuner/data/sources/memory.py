"""The memory of the process: a place for caches, and none for images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import model_validator

from simpletuner.data.sources.base import DataBackend
from simpletuner.schema import NoEffect, Section, conflict

_NO_FOLDER = NoEffect("what is kept in memory needs no folder, no size and no rights")


class MemoryFolder(Section):
    """How SimpleTuner makes a folder of a part of the memory; here it takes no folder."""

    memory_filesystem_path: Annotated[Path | None, _NO_FOLDER] = None
    """Where the memory appears as a folder."""
    memory_filesystem_size: Annotated[str | int | None, _NO_FOLDER] = None
    """How large that folder may become, such as 8G."""
    memory_filesystem_sudo: Annotated[bool, _NO_FOLDER] = False
    """Asks the system for the right to make it."""


class Memory(DataBackend, MemoryFolder):
    """For caches alone; images cannot be in memory."""

    @model_validator(mode="before")
    @classmethod
    def _no_images(cls, given: Any) -> Any:
        """Refuse at once: whatever else is wrong with the entry does not matter then."""
        raise conflict(
            "type",
            "'memory' keeps caches, not images; use type local for these images, on a memory disk if you like, "
            "or set dataset_type to text_embeds or image_embeds if this is a cache",
        )
