"""A data set that is made out of the images of another one whenever it is read; nothing is written."""

from __future__ import annotations

import io
import os.path
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image
from pydantic import Field

from simpletuner.data import images
from simpletuner.data.generators.base import Generator
from simpletuner.data.items import Item
from simpletuner.data.sources.base import IMAGE_SUFFIXES, OTHER_PICTURES, DataBackend, Source
from simpletuner.data.web.downloads import Preparable
from simpletuner.progress import Reporter


class Generated(DataBackend):
    """Pictures made out of those of another data set."""

    type: str = "generated"
    """Where the images are."""
    made_from: DataBackend = Field(repr=False)
    """The data set whose images are taken."""
    generator: Generator = Field(repr=False)
    """What is made out of them."""
    captions: bool | str | tuple[str, ...] | None = None
    """Captions of the result: none (false), these, or the same as the image's."""

    def open(self) -> GeneratedSource:
        """The pictures, ready to be listed; each is made when it is read."""
        return GeneratedSource(self.made_from.open(), self.generator)


class GeneratedSource:
    """Lists what another source lists, under the same keys; reading an image makes its picture."""

    def __init__(self, source: Source, generator: Generator) -> None:
        self.source = source
        self.generator = generator
        self.lanes = source.lanes

    def prepare(self, reporter: Reporter) -> None:
        """Let the other source do what it has to do before it is listed."""
        if isinstance(self.source, Preparable):
            self.source.prepare(reporter)

    def items(self) -> Iterator[Item]:
        """What the other source lists; a picture changes when the image or the settings do."""
        recipe = self.generator.recipe
        for item in self.source.items():
            if not _is_picture(item.key):
                yield item
            else:
                version = f"{item.version}+{recipe}" if item.version else ""
                digest = self.generator.digest(item.digest, item.key) if item.digest else ""
                yield item._replace(version=version, digest=digest)

    def read(self, key: str) -> bytes:
        """The picture as a PNG of the size of the upright image; a DataError names an image that is damaged."""
        data = self.source.read(key)
        if not _is_picture(key):
            return data
        image = images.decode(data, self.source.name(key))
        try:
            return _png(self.generator.picture(image, key))
        except images.Unreadable as error:
            raise images.Unreadable(f"{self.name(key)}: {error}") from error

    def open(self, key: str) -> BinaryIO:
        """The image itself: its head says how large the picture will be, and nothing needs to be made for that."""
        return self.source.open(key)

    def name(self, key: str) -> str:
        """Where the image is, and what is made out of it."""
        if not _is_picture(key):
            return self.source.name(key)
        return f"{self.source.name(key)} (made into: {self.generator.name})"


def _is_picture(key: str) -> bool:
    """Everything else that a source lists is a caption file, whatever its ending."""
    return os.path.splitext(key)[1].lower() in _PICTURES


def _png(picture: Image.Image) -> bytes:
    """Hardly compressed: it is decoded again at once."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


_PICTURES = IMAGE_SUFFIXES | OTHER_PICTURES
