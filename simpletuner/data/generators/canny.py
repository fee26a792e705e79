"""The edges in images, white on black, for models that are led by outlines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from simpletuner.data.generators.base import Generator
from simpletuner.data.generators.dice import PictureDice
from simpletuner.errors import DataError
from simpletuner.schema import conflict


class Canny(Generator):
    """Finds edges by Canny's method."""

    name: ClassVar[str] = "canny"
    usual: ClassVar[str] = "controlnet"
    needs: ClassVar[Mapping[str, str]] = {"cv2": "pip install 'simpletuner[vision]'"}

    low_threshold: float = Field(default=50, ge=0)
    """An edge goes on where the brightness changes by more than this."""
    high_threshold: float = Field(default=100, ge=0)
    """An edge begins where the brightness changes by more than this."""

    @model_validator(mode="after")
    def _in_order(self) -> Canny:
        if self.low_threshold > self.high_threshold:
            message = f"{self.low_threshold:g} is more than high_threshold, {self.high_threshold:g}"
            raise conflict("low_threshold", message)
        return self

    def make(self, image: Image.Image, dice: PictureDice) -> Image.Image:
        """The edges of the image."""
        try:
            import cv2
        except ImportError as error:
            raise DataError(f"the generator canny needs OpenCV; run: {self.needs['cv2']}") from error
        edges = cv2.Canny(np.asarray(image.convert("L")), self.low_threshold, self.high_threshold)
        return Image.fromarray(np.asarray(edges)).convert("RGB")
