"""Small pictures of noise as bytes, made on the spot."""

import io

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (48, 32), kind: str = "JPEG") -> bytes:
    """An image file; the same arguments give the same bytes."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()
