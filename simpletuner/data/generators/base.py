"""What every generator is: settings, and a function from one picture to another of the same size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import xxhash
from PIL import Image

from simpletuner.data.generators.dice import PictureDice
from simpletuner.schema import Section
from simpletuner.seeds import derive


class Generator(Section):
    """Settings of what is made out of each image of a data set."""

    name: ClassVar[str] = ""
    """What it is called, whichever of its names the user wrote."""
    version: ClassVar[int] = 1
    """Raised when the same settings make another picture, so that caches know."""
    usual: ClassVar[str] = ""
    """The conditioning type that its results mostly have."""
    needs: ClassVar[Mapping[str, str]] = {}
    """Modules that must be installed, each with the command that installs it."""

    @property
    def draws(self) -> bool:
        """Whether what is made depends on chance, and so on the name of the image."""
        return False

    @property
    def recipe(self) -> str:
        """A checksum of everything but the image that decides on what is made."""
        text = f"{self.name}/{self.version}/{self.model_dump_json()}"
        return xxhash.xxh3_64_hexdigest(text.encode())

    def digest(self, digest: str, key: str) -> str:
        """Of the picture, from that of the image; equal images make different pictures when chance plays a part."""
        text = f"{digest}/{self.recipe}/{key if self.draws else ''}"
        return xxhash.xxh3_128_hexdigest(text.encode(errors="surrogateescape"))

    def picture(self, image: Image.Image, key: str) -> Image.Image:
        """What is made out of an image, always the same for the same name of the file."""
        return self.make(image, PictureDice(derive(0, self.name, key)))

    def make(self, image: Image.Image, dice: PictureDice) -> Image.Image:
        """What is made out of an RGB image: another one of the same size."""
        raise NotImplementedError
