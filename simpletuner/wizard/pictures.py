"""A look into the picture folder: how many pictures there are, and whether captions lie beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from simpletuner import files
from simpletuner.data.captions.spelling import canonical, composed, decode_text
from simpletuner.data.sources.base import CAPTION_SUFFIX, IMAGE_SUFFIXES
from simpletuner.data.sources.local import LocalFolder
from simpletuner.errors import DataError


@dataclass(frozen=True)
class Pictures:
    """What a folder has to offer."""

    count: int = 0
    captioned: int = 0
    """How many of the pictures have a caption file beside them."""
    examples: tuple[str, ...] = ()
    """The first caption of the first pictures that have one."""


def look(folder: Path) -> Pictures:
    """Count what is in a folder and below it; of the files only the first captions are opened."""
    source = LocalFolder(folder)
    keys = sorted(item.key for item in source.items())
    texts = {_stem(key): key for key in keys if key.endswith(CAPTION_SUFFIX)}
    pictures = [key for key in keys if PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES]
    captioned = [texts[_stem(key)] for key in pictures if _stem(key) in texts]
    return Pictures(len(pictures), len(captioned), tuple(_first_line(source, key) for key in captioned[:2]))


def refused(text: str, environment: Mapping[str, str]) -> str | None:
    """What is wrong with a folder of pictures, if anything."""
    if not text.strip():
        return "Name the folder that your pictures are in."
    folder = place(text, environment)
    if not folder.is_dir():
        return f"There is no folder {folder}."
    try:
        count = look(folder).count
    except DataError as error:
        return str(error)
    return None if count else f"There are no pictures in {folder}."


def place(text: str, environment: Mapping[str, str]) -> Path:
    """The folder that is meant, with ``{env:NAME}`` and ``~`` filled in."""
    return Path(str(files.filled(text.strip(), environment, []))).expanduser()


def _stem(key: str) -> str:
    return composed(key[: len(key) - len(PurePosixPath(key).suffix)])


def _first_line(source: LocalFolder, key: str) -> str:
    return canonical(decode_text(source.read(key))).partition("\n")[0]
