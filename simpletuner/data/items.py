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


class Item(NamedTuple):
    """A file in a source, as listing it shows it: nothing was opened for this."""

    key: str
    version: str
    """Changes whenever the content may have changed; empty when that cannot be told without reading it."""
    size_bytes: int
    digest: str = ""
    """Of the content, where the source knows it without reading the file."""
    size: Size | None = None
    """Width and height, where the source knows them without opening the file."""
    captions: tuple[str, ...] | None = None
    """What the source itself says about the image, such as a column of a table; nothing when it says nothing."""
    problem: str = ""
    """Why the source cannot give this image, such as an address that does not answer."""


class Box(NamedTuple):
    """A part of an image, in pixels of the upright original."""

    left: int
    top: int
    width: int
    height: int


class Chances(NamedTuple):
    """Numbers from [0, 1) that decide on whatever is drawn at random for one image."""

    left: float = 0.5
    top: float = 0.5
    aspect: float = 0.5


@dataclass(frozen=True, slots=True)
class Placement:
    """What will happen to the pixels of an image: one resize, then one crop to the size of its bucket."""

    resize: Size
    crop: tuple[int, int]
    """Left and top edge of the part that is kept, in pixels of the resized image."""
    bucket: Size
    interpolation: str = "lanczos"
    """How pixels are resized: a name of `geometry.INTERPOLATIONS`."""
    mirrored: bool = False
    """Whether left and right are swapped in the end."""


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
