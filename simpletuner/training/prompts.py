"""Which prompts validation draws, at which sizes and how. Imports no torch, so that a config can be checked with it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from simpletuner.training import wishes
from simpletuner.training.collection import COLLECTION
from simpletuner.training.options import Validation
from simpletuner.training.wishes import Wish

T = TypeVar("T")


@dataclass(frozen=True)
class Start:
    """A picture that drawing starts from, and not from noise alone."""

    source: str
    """A file, or the id of a data set."""
    digest: str
    """Tells its content from others."""
    strength: float
    """How much of it may change: 1 for all."""
    place: int | None = None
    """Which image of the data set."""


@dataclass(frozen=True)
class Shot:
    """One validation image: a prompt at a size, from a seed, and how it is drawn."""

    name: str
    prompt: str
    width: int
    height: int
    seed: int
    steps: int = 20
    guidance: float = 3.0
    real: float = 1.0
    negative: str = ""
    start: Start | None = None
    adapter_strength: float = field(default=1.0, repr=False)
    """How strongly the trained adapter acts; what the base model draws of a shot is told from others without it."""

    @property
    def label(self) -> str:
        """What is written beside its picture: the strength of the adapter where it is another, and the prompt."""
        is_usual = self.adapter_strength == 1
        return self.prompt if is_usual else f"[adapter_strength {self.adapter_strength:g}] {self.prompt}".rstrip()


def shots(options: Validation, seed: int) -> tuple[Shot, ...]:
    """Every image a validation draws, in the order of the sheet; none where they start from data sets."""
    if options.validation_using_datasets:
        return ()
    first = options.validation_seed if options.validation_seed is not None else seed
    named = file_names(wanted(options))
    return tuple(
        shot
        for size in options.sizes()
        for name, wish in named.items()
        if not (wish.width and size != options.sizes()[0])
        for shot in _numbered(_shot(options, name, wish, size, first), options.num_validation_images)
    )


def usual(options: Validation, prompt: str, seed: int) -> Shot:
    """One image of a prompt as the options draw it that are for all prompts."""
    first = options.validation_seed if options.validation_seed is not None else seed
    return _shot(options, "usual", Wish(prompt), options.sizes()[0], first)


def _numbered(shot: Shot, count: int) -> Iterator[Shot]:
    for number in range(count):
        yield replace(shot, seed=shot.seed + number)


def _shot(options: Validation, name: str, wish: Wish, size: tuple[int, int], seed: int) -> Shot:
    start, size = _start(wish, size)
    return Shot(
        name=name,
        prompt=wish.prompt,
        width=size[0],
        height=size[1],
        seed=seed if wish.seed is None else wish.seed,
        steps=wish.steps or options.validation_num_inference_steps,
        guidance=options.validation_guidance if wish.guidance is None else wish.guidance,
        real=options.validation_guidance_real if wish.real is None else wish.real,
        negative=options.validation_negative_prompt if wish.negative is None else wish.negative,
        start=start,
        adapter_strength=1.0 if wish.adapter_strength is None else wish.adapter_strength,
    )


def _start(wish: Wish, size: tuple[int, int]) -> tuple[Start | None, tuple[int, int]]:
    """The picture that a wish starts from, and the size of what is drawn: that of the wish, or in its shape."""
    own = (wish.width, wish.height) if wish.width and wish.height else None
    if wish.image is None:
        return None, own or size
    data, shape = _looked_at(Path(wish.image))
    start = Start(wish.image, blake2b(data, digest_size=8).hexdigest(), wish.strength or STRENGTH)
    return start, own or in_shape(shape, size)


def in_shape(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """A size of about the same area in another shape, in multiples of 64 pixels."""
    edge, ratio = math.sqrt(size[0] * size[1]), math.sqrt(shape[0] / shape[1])
    return max(64, round(edge * ratio / 64) * 64), max(64, round(edge / ratio / 64) * 64)


def _looked_at(path: Path) -> tuple[bytes, tuple[int, int]]:
    """What is in the file of a picture, and its size as it is shown."""
    from PIL import Image, ImageOps

    try:
        data = path.read_bytes()
        with Image.open(path) as image:
            return data, ImageOps.exif_transpose(image).size
    except OSError as error:
        raise ValueError(f"the picture '{path}' cannot be read: {error.strerror or 'it is none'}") from error


def file_names(named: Mapping[str, T]) -> dict[str, T]:
    """The same things under names that can be parts of file names, each one different."""
    found: dict[str, T] = {}
    for name, one in named.items():
        plain = re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "prompt"
        found[_free(plain, found)] = one
    return found


def _free(name: str, taken: Mapping[str, object]) -> str:
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(one for one in numbered if one not in taken)


def wanted(options: Validation) -> dict[str, Wish]:
    """Prompts by their short names: the collections first, then the single prompt, then the empty one.

    Pictures to start from are drawn alone.

    Raises:
        ValueError: A file is missing or is not what it should be; the message says what is wrong.
    """
    if options.validation_input is not None:
        return inputs(options.validation_input)
    found = {name: Wish(text) for name, text in COLLECTION.items()} if options.validation_prompt_library else {}
    if options.user_prompt_library:
        for name, wish in wishes.read(Path(options.user_prompt_library)).items():
            found[_free(name, found)] = wish
    if options.validation_prompt:
        found[_free("validation", found)] = Wish(options.validation_prompt)
    if not options.validation_disable_unconditional:
        found[_free("unconditional", found)] = Wish("")
    return found


def inputs(given: Any) -> dict[str, Wish]:
    """What `validation_input` asks for: a list of pictures with prompts, or a JSON file with one.

    Raises:
        ValueError: It is no such list.
    """
    raw, folder = _list_of(given)
    found: dict[str, Wish] = {}
    for number, entry in enumerate(raw):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
            raise ValueError(f"entry {number + 1} needs a path and a prompt")
        path = Path(entry["path"]).expanduser()
        path = folder / path if folder and not path.is_absolute() and not path.is_file() else path
        name = entry.get("shortname") or entry.get("name") or f"validation_input_{number}_{path.stem}"
        others = {key: value for key, value in entry.items() if key not in ("path", "shortname", "name")}
        found[_free(str(name), found)] = wishes.wish({**others, "image": str(path)}, f"entry {number + 1}")
    return found


def _list_of(given: Any) -> tuple[Sequence[Any], Path | None]:
    """A list, or the one that is in a text or a file, with the folder of the file."""
    folder = None
    if isinstance(given, str) and not given.lstrip().startswith("["):
        path = Path(given).expanduser()
        folder = path.parent
        try:
            given = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"'{path}' cannot be read: {error.strerror}") from error
    try:
        found = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(found, (list, tuple)) or not found:
        raise ValueError("must be a list of objects with a path and a prompt")
    return found, folder


def library(path: Path) -> Mapping[str, str]:
    """The texts of a file of prompts by their names.

    Raises:
        ValueError: The file is missing or is none of the known kinds; the message says what is wrong.
    """
    return {name: wish.prompt for name, wish in wishes.read(path).items()}


def texts(options: Validation, chosen: Sequence[Shot]) -> list[str]:
    """Every prompt that must be encoded for validation, the negative ones included."""
    negatives = [shot.negative for shot in chosen if shot.real > 1]
    if options.validation_using_datasets and options.validation_guidance_real > 1:
        negatives.append(options.validation_negative_prompt)
    return list(dict.fromkeys([*(shot.prompt for shot in chosen), *negatives]))


STRENGTH = 0.6
"""How much of a picture changes that drawing starts from."""
