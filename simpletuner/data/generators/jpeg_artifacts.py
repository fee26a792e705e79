"""Pictures with the damage that JPEG does, for models that repair it."""

from __future__ import annotations

import io
from typing import Annotated, ClassVar

from PIL import Image, ImageFilter
from pydantic import Field, model_validator

from simpletuner.data.generators.base import Generator
from simpletuner.data.generators.dice import PictureDice
from simpletuner.data.generators.noise import with_noise
from simpletuner.data.images import Unreadable
from simpletuner.schema import conflict, words

Quality = Annotated[int, Field(ge=1, le=100)]
"""How little JPEG damages a picture: 1 for the worst, 100 for the best."""


class JpegArtifacts(Generator):
    """Damages images as strong JPEG compression does."""

    name: ClassVar[str] = "jpeg_artifacts"
    usual: ClassVar[str] = "reference_strict"

    quality_mode: Annotated[
        str,
        words(
            "quality mode",
            {
                "fixed": "Every image gets the quality in quality.",
                "range": "The quality of each image is drawn from quality_range.",
                "random": "The quality of each image is one of quality_list.",
            },
        ),
    ] = "fixed"
    """How the quality of an image is chosen."""
    quality: Quality = 25
    """How little an image is damaged, from 1 to 100, for quality_mode fixed."""
    quality_range: tuple[Quality, Quality] = (10, 50)
    """The lowest and the highest quality, for quality_mode range."""
    quality_list: tuple[Quality, ...] = ()
    """The qualities for quality_mode random; any in quality_range unless given."""
    compression_rounds: int = Field(default=1, ge=1, le=100)
    """How often an image is compressed one after the other."""
    round_quality_decay: float = Field(default=0.9, gt=0, le=1)
    """What the quality is multiplied by from one round to the next."""
    subsampling: Annotated[
        str,
        words(
            "subsampling",
            {
                "4:2:0": "Colours have half the resolution, as in most JPEG files.",
                "4:2:2": "Colours have half the resolution from left to right.",
                "4:4:4": "Colours have the full resolution.",
            },
        ),
    ] = "4:2:0"
    """How much the resolution of colours suffers."""
    pre_blur: bool = False
    """Blurs images a little first."""
    add_noise: bool = False
    """Adds a little noise first, which JPEG turns into blotches."""
    enhance_blocks: bool = False
    """Makes the edges of the squares that JPEG cuts an image into easier to see."""

    @model_validator(mode="after")
    def _fits(self) -> JpegArtifacts:
        low, high = self.quality_range
        if low > high:
            raise conflict("quality_range", f"{low} is more than {high}; write the lower quality first")
        if self.quality_list and self.quality_mode != "random":
            raise conflict("quality_list", "is for quality_mode random; set that, or leave quality_list out")
        return self

    @property
    def draws(self) -> bool:
        """Whether the quality or the noise is drawn."""
        return self.add_noise or self.quality_mode != "fixed"

    def make(self, image: Image.Image, dice: PictureDice) -> Image.Image:
        """The image as it looks after all rounds of compression."""
        quality = float(self._quality(dice))
        image = image.filter(ImageFilter.GaussianBlur(_BLUR)) if self.pre_blur else image
        image = with_noise(image, _NOISE, dice) if self.add_noise else image
        for _ in range(self.compression_rounds):
            image = compressed(image, max(round(quality), 1), self.subsampling)
            quality *= self.round_quality_decay
        return _in_blocks(image) if self.enhance_blocks else image

    def _quality(self, dice: PictureDice) -> int:
        if self.quality_mode == "fixed":
            return self.quality
        if self.quality_mode == "random" and self.quality_list:
            return dice.one_of(self.quality_list)
        return dice.whole(*self.quality_range)


def compressed(image: Image.Image, quality: int, subsampling: str = "4:2:0") -> Image.Image:
    """The image as it looks in a JPEG file of this quality; Unreadable when it is too long for one."""
    if max(image.size) > _LONGEST:
        raise Unreadable(f"JPEG holds no image with an edge of more than {_LONGEST:,} pixels")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(buffer) as damaged:
        return damaged.convert("RGB")


def _in_blocks(image: Image.Image) -> Image.Image:
    """A little of each pixel gives way to the mean colour of its square of 8 by 8 pixels."""
    means = image.reduce(_BLOCK)
    blocks = means.resize((means.width * _BLOCK, means.height * _BLOCK), Image.Resampling.NEAREST)
    return Image.blend(image, blocks.crop((0, 0, *image.size)), _BLOCKINESS)


_LONGEST = 65_500  # what libjpeg takes, a little less than what the format could hold
_BLOCK = 8
_BLOCKINESS = 0.3
_BLUR = 0.7
_NOISE = 0.02
