"""Grain over a picture, strip by strip, so that a huge picture needs little memory."""

from __future__ import annotations

import numpy as np
from PIL import Image

from simpletuner.data.generators.dice import PictureDice


def with_noise(image: Image.Image, level: float, dice: PictureDice) -> Image.Image:
    """The image with noise in each colour; `level` is its deviation as a share of full brightness."""
    pixels = np.array(image)
    for top in range(0, image.height, _ROWS):
        strip = pixels[top : top + _ROWS]
        strip[:] = np.clip(strip + dice.noise(*strip.shape) * np.float32(level * 255) + np.float32(0.5), 0, 255)
    return Image.fromarray(pixels)


_ROWS = 256
