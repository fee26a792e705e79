"""Blurred, noisy copies of images, for models that learn to bring the detail back."""

from __future__ import annotations

from typing import Annotated, ClassVar

from PIL import Image, ImageFilter
from pydantic import Field

from simpletuner.data.generators.base import Generator
from simpletuner.data.generators.dice import PictureDice
from simpletuner.data.generators.jpeg_artifacts import Quality, compressed
from simpletuner.data.generators.noise import with_noise
from simpletuner.schema import words


class SuperResolution(Generator):
    """Takes the detail out of images: blur, fewer pixels, noise, compression."""

    name: ClassVar[str] = "superresolution"
    usual: ClassVar[str] = "reference_strict"

    blur_radius: float = Field(default=2.0, ge=0, le=1000)
    """How far a point is blurred, in pixels of the original; 0 for not at all."""
    blur_type: Annotated[
        str,
        words(
            "blur",
            {
                "gaussian": "Soft, as a lens that is out of focus.",
                "box": "Even, as a sensor with few pixels.",
                "both": "One after the other.",
            },
        ),
    ] = "gaussian"
    """How images are blurred."""
    downscale_factor: float | None = Field(default=None, ge=1, le=64)
    """Shrinks images by this factor and enlarges them again."""
    add_noise: bool = True
    """Adds noise after blurring."""
    noise_level: float = Field(default=0.02, ge=0, le=1)
    """How strong the noise is, as a share of full brightness."""
    jpeg_quality: Quality | None = None
    """Compresses the result with this JPEG quality, from 1 to 100."""

    @property
    def draws(self) -> bool:
        """Whether there is noise."""
        return self.add_noise and self.noise_level > 0

    def make(self, image: Image.Image, dice: PictureDice) -> Image.Image:
        """The image without its detail."""
        for filter in _BLURS[self.blur_type] if self.blur_radius else ():
            image = image.filter(filter(self.blur_radius))
        image = _coarse(image, self.downscale_factor) if self.downscale_factor else image
        image = with_noise(image, self.noise_level, dice) if self.draws else image
        return compressed(image, self.jpeg_quality) if self.jpeg_quality else image


def _coarse(image: Image.Image, factor: float) -> Image.Image:
    small = max(round(image.width / factor), 1), max(round(image.height / factor), 1)
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


_BLURS = {
    "gaussian": (ImageFilter.GaussianBlur,),
    "box": (ImageFilter.BoxBlur,),
    "both": (ImageFilter.GaussianBlur, ImageFilter.BoxBlur),
}
