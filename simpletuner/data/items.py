"""Facts about one image, as frozen values: what was found, and what will happen to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Width and height in pixels, as a viewer would see the image."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Item:
    """A file in a source, as listing it shows it: nothing was opened for this."""

    key: str
    version: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What will happen to the pixels of an image: one resize, then one crop to the size of its bucket."""

    resize: Size
    crop: tuple[int, int]
    """Left and top edge of the part that is kept, in pixels of the resized image."""
    bucket: Size


@dataclass(frozen=True, slots=True)
class Record:
    """One image that takes part in training."""

    key: str
    version: str
    digest: str
    """Of the bytes of the file: a replaced image has another one, a renamed image the same."""
    size: Size
    placement: Placement
    captions: tuple[str, ...]
    """At least one; when there are more, each use of the image draws one of them."""
