"""How much of an image is learned, pixel by pixel, from the mask beside it or from its own transparency."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

from simpletuner.data import images
from simpletuner.data.items import Placement, Size
from simpletuner.data.pairs import same_shape
from simpletuner.errors import DataError

Weights = NDArray[np.float32]
"""One number from 0 (not learned) to 1 (learned) for each pixel, with shape (height, width)."""


@dataclass(frozen=True)
class Kind:
    """How a picture is read as a mask."""

    weights: Callable[[Image.Image], Weights]
    interpolation: str
    """Neither makes a pixel darker or brighter than those around it, as Lanczos does."""


def read(data: bytes, name: str, *, kind: str, image: str, size: Size, placement: Placement) -> Weights:
    """The mask of an image, resized and cropped as the image is.

    Args:
        data: The content of the file with the mask. What is transparent in it counts as black.
        name: Where the mask is, for the error when it does not fit.
        kind: The conditioning type: mask or segmentation.
        image: Where the image is, for the same error.
        size: The upright size of the image; the mask may have another resolution, but not another shape.
        placement: What is done to the image.
    """
    picture = _picture(data, name)
    check_shape(Size(*picture.size), name, of=size, image=image)
    how = KINDS[kind]
    return how.weights(images.apply(picture, replace(placement, interpolation=how.interpolation)))


def brightest(data: bytes, name: str, kind: str) -> float:
    """The largest weight that is anywhere in a mask."""
    return float(KINDS[kind].weights(_picture(data, name)).max(initial=0.0))


def read_opacity(data: bytes, name: str, placement: Placement) -> Weights:
    """The mask that an image is by itself: what is opaque is learned, what is transparent is not.

    An image without transparency is learned as a whole.
    """
    picture = images.decode(data, name)
    opacity = _opacity(data) or Image.new("L", picture.size, 255)
    return _grey(images.apply(opacity, replace(placement, interpolation=KINDS["mask"].interpolation)))


def check_shape(mask: Size, name: str, *, of: Size, image: str) -> None:
    """A DataError that names both files when one cannot lie over the other."""
    if not same_shape(mask, of):
        raise DataError(
            f"{name} ({mask}) does not fit {image} ({of}): they differ in shape, so one cannot lie over the other. "
            f"Cut one of them to the shape of the other, or take both out."
        )


def _picture(data: bytes, name: str) -> Image.Image:
    return _over_black(images.decode(data, name), _opacity(data))


def _over_black(picture: Image.Image, opacity: Image.Image | None) -> Image.Image:
    """Images are laid over white, where a transparent mask would mean that everything is learned."""
    if opacity is None:
        return picture
    white = ImageOps.invert(opacity)
    return ImageChops.subtract(picture, Image.merge("RGB", (white, white, white)))


def _opacity(data: bytes) -> Image.Image | None:
    """The alpha channel of a file that is known to be readable, upright; nothing when it has none."""
    with Image.open(io.BytesIO(data)) as picture:
        if not picture.has_transparency_data:
            return None
        # As `images` has it: only what is said in front of the pixels counts, and Pillow turns TIFF by itself.
        upright = ImageOps.exif_transpose(picture) if picture.info.get("exif") else picture
        return upright.convert("RGBA").getchannel("A")


def _red(picture: Image.Image) -> Weights:
    return _grey(picture.getchannel("R"))


def _grey(picture: Image.Image) -> Weights:
    weights: Weights = np.divide(np.asarray(picture), 255, dtype=np.float32)
    return weights


def _not_black(picture: Image.Image) -> Weights:
    weights: Weights = np.asarray(np.asarray(picture).any(axis=2), dtype=np.float32)
    return weights


KINDS = {
    "mask": Kind(_red, "bilinear"),
    "segmentation": Kind(_not_black, "area"),
}
"""The conditioning types that are masks: the brightness of red counts, or whether there is any colour at all."""
