"""Which columns of a data set say what, checked against the columns that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simpletuner.data.sources.rows.kinds import Kinds, holds_images, paths
from simpletuner.data.sources.rows.load import Address

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Columns:
    """The columns with images, and with what is known about them; `a.b` is the part `b` of the column `a`."""

    image: str | None = None
    """The only column with images unless given."""
    captions: tuple[str, ...] = ()
    """What all of them say are alternatives."""
    fallback: str | None = None
    """Asked for rows without a caption."""
    description: str | None = None
    """Asked for rows that have no caption otherwise."""
    width: str | None = None
    height: str | None = None
    others: tuple[str, ...] = ()
    """What a filter looks at."""

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What is asked in turn for rows without a caption."""
        return tuple(name for name in (self.fallback, self.description) if name)

    def named(self) -> Iterator[tuple[str, str]]:
        """Every column that was named, with the option that names it."""
        single = {
            "image_column": self.image,
            "fallback_caption_column": self.fallback,
            "description_column": self.description,
            "width_column": self.width,
            "height_column": self.height,
        }
        yield from ((option, path) for option, path in single.items() if path)
        yield from (("caption_column", path) for path in self.captions)
        yield from (("filter_func", path) for path in self.others)

    @property
    def texts(self) -> tuple[str, ...]:
        """All columns that hold text or numbers."""
        sizes = (name for name in (self.width, self.height) if name)
        return tuple(dict.fromkeys([*self.captions, *self.fallbacks, *sizes, *self.others]))


def settled(columns: Columns, kinds: Kinds, address: Address) -> Columns:
    """The same with the columns that nobody named; one DataError tells of every name that is wrong."""
    known = set(paths(kinds))
    wrong = [f"column '{path}' for {option}" for option, path in columns.named() if path not in known]
    if wrong:
        raise address.error(f"has no {' and no '.join(wrong)}; its columns are {', '.join(kinds)}.")
    image = columns.image or _only_image(kinds, address)
    if not holds_images(kinds, image):
        raise address.error(f"holds no images in column '{image}'. {_images_of(kinds)}")
    captions = columns.captions or tuple(path for path in _USUAL_CAPTIONS if path in known)[:1]
    return replace(columns, image=image, captions=captions)


def labels(dataset: Dataset) -> Mapping[str, list[str]]:
    """The columns that hold the number of a word, each with its words."""
    from datasets import ClassLabel

    return {name: list(kind.names) for name, kind in dataset.features.items() if isinstance(kind, ClassLabel)}


def _only_image(kinds: Kinds, address: Address) -> str:
    found = [column for column in kinds if holds_images(kinds, column)]
    usual = [column for column in _USUAL_IMAGES if column in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    raise address.error(f"needs an image_column. {_images_of(kinds)}")


def _images_of(kinds: Kinds) -> str:
    found = [column for column in kinds if holds_images(kinds, column)]
    if found:
        return f"The columns with images are {', '.join(found)}."
    return f"It has none with images; its columns are {', '.join(kinds)}. For addresses of images, use type csv."


_USUAL_IMAGES = ("image", "jpg", "png", "webp")
_USUAL_CAPTIONS = ("caption", "text", "captions", "prompt", "txt", "json.caption", "json.prompt", "description")
