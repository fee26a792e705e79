"""Where the largest face of an image is, for crop_style face; found by OpenCV's own detectors, without any download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import get_ident

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from simpletuner.data.items import Box
from simpletuner.errors import DataError

Detector = Callable[[NDArray[np.uint8]], list[Box]]


def find(image: Image.Image) -> Box | None:
    """The largest face, seen from the front or else from a side; the same image always gives the same box."""
    small, shrunk = _small(image)
    frontal, profile = _detectors(get_ident())
    faces = frontal(small) or list(_from_both_sides(small, profile))
    if not faces:
        return None
    largest = max(faces, key=lambda box: (box.width * box.height, -box.top, -box.left))
    return _inside(Box(*(round(value * shrunk) for value in largest)), image)


def unavailable() -> str | None:
    """Why no faces can be found on this machine, or nothing when they can; tells it without importing OpenCV."""
    return None if find_spec("cv2") else _MISSING


def _small(image: Image.Image) -> tuple[NDArray[np.uint8], float]:
    """Grey, even in contrast, and small enough to be searched quickly; and how much smaller it is."""
    grey = image.convert("L")
    shrunk = max(max(grey.size) / _LONGEST, 1.0)
    if shrunk > 1:
        grey = grey.resize((round(grey.width / shrunk) or 1, round(grey.height / shrunk) or 1), Image.Resampling.BOX)
    return np.asarray(ImageOps.equalize(grey)), shrunk


def _from_both_sides(image: NDArray[np.uint8], profile: Detector) -> Iterator[Box]:
    """The detector knows faces that look to the left only."""
    yield from profile(image)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    for box in profile(mirrored):
        yield box._replace(left=image.shape[1] - box.left - box.width)


def _inside(box: Box, image: Image.Image) -> Box:
    left, top = min(box.left, image.width - 1), min(box.top, image.height - 1)
    return Box(left, top, min(box.width, image.width - left), min(box.height, image.height - top))


@cache
def _detectors(thread: int) -> tuple[Detector, Detector]:
    """Each thread has its own, because a detector can search one image at a time."""
    return _detector("haarcascade_frontalface_default.xml", 6), _detector("haarcascade_profileface.xml", 10)


def _detector(name: str, agreeing: int) -> Detector:
    """The fewer hits around one place have to agree, the more patterns are taken for a face; most of all profiles."""
    try:
        import cv2
    except ImportError as error:
        raise DataError(_MISSING) from error
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / name))
    if cascade.empty():  # OpenCV of a Linux distribution keeps its detectors elsewhere, or not at all
        raise DataError(_MISSING)

    def detect(image: NDArray[np.uint8]) -> list[Box]:
        smallest = max(round(min(image.shape) * _SMALLEST), 24)
        found = cascade.detectMultiScale(image, scaleFactor=1.1, minNeighbors=agreeing, minSize=(smallest, smallest))
        return [Box(*map(int, box)) for box in found]

    return detect


_LONGEST = 640
_SMALLEST = 0.06  # of the shorter edge; what is smaller is more often a pattern than a face

_MISSING = "crop_style face needs OpenCV; run: pip install 'simpletuner[vision]', or choose crop_style center"
