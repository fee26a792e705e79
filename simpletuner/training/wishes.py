"""Files of prompts for validation: our own JSON libraries, and the text, TOML and JSON files of sd-scripts."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Wish:
    """One prompt, and what is to be different for it from the options of the run."""

    prompt: str
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    real: float | None = None
    image: str | None = None
    """The picture that it starts from."""
    strength: float | None = None
    """How much of that picture may change."""
    adapter_strength: float | None = None
    """How strongly the trained adapter acts."""
    unread: tuple[str, ...] = field(default=(), compare=False)
    """What stands there for other models."""


def read(path: Path) -> Mapping[str, Wish]:
    """The prompts of a file by their names; an empty JSON object has none.

    Raises:
        ValueError: The file is missing or is none of the known kinds; the message says what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not text in UTF-8; save it as that") from error
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}") from error
    kind = path.suffix.lower()
    found: dict[str, Wish] = {}
    for name, one in _READERS.get(kind, _from_json)(path, text):
        if name in found:
            raise ValueError(f"'{path}' has two prompts called '{name}'; give each a name of its own")
        found[name] = one
    return found


def _from_text(path: Path, text: str) -> Iterator[tuple[str, Wish]]:
    lines = [line.strip() for line in text.splitlines()]
    prompts = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"'{path}' has no prompt in it")
    for place, (number, line) in enumerate(prompts, 1):
        yield f"{place:02}", from_line(line, f"line {number} of '{path}'")


def from_line(line: str, where: str) -> Wish:
    """A prompt with options behind it, as sd-scripts reads it: ``a cat --w 512 --h 768 --d 1 --n a dog``."""
    prompt, *options = re.split(r"(?:^|\s)--(?=[A-Za-z])", line)
    if not prompt.strip():
        raise ValueError(f"{where} has no prompt")
    given: dict[str, Any] = {}
    for option in options:
        letters, _, value = option.partition(" ")
        name = _LETTERS.get(letters.lower())
        if name is None:
            known = ", ".join(f"--{one}" for one in _LETTERS)
            raise ValueError(f"{where} has --{letters}, which is not known; known are {known}")
        given[name] = value.strip()
    return wish({"prompt": prompt.strip(), **given}, where)


def _from_toml(path: Path, text: str) -> Iterator[tuple[str, Wish]]:
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"'{path}' is not TOML: {error}") from error
    general = whole.get("prompt")
    if not isinstance(general, Mapping):
        raise ValueError(f"'{path}' has no table [prompt]; write [prompt] and below it a [[prompt.subset]] per prompt")
    common = {name: value for name, value in general.items() if name != "subset"}
    yield from _listed(path, [{**common, **one} for one in general.get("subset", [{}])])


def _from_json(path: Path, text: str) -> Iterator[tuple[str, Wish]]:
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from error
    if isinstance(whole, list):
        yield from _listed(path, whole)
    elif isinstance(whole, Mapping):
        yield from ((str(name), _named(path, str(name), entry)) for name, entry in whole.items())
    else:
        raise ValueError(f"'{path}' must be an object of names and prompts")


def _listed(path: Path, entries: Sequence[object]) -> Iterator[tuple[str, Wish]]:
    for number, entry in enumerate(entries, 1):
        where = f"prompt {number} of '{path}'"
        if isinstance(entry, str):
            yield f"{number:02}", from_line(entry, where)
        elif isinstance(entry, Mapping):
            name = next((str(entry[key]) for key in _NAMES if entry.get(key)), f"{number:02}")
            yield name, wish({key: value for key, value in entry.items() if key not in _NAMES}, where)
        else:
            raise ValueError(f"{where} is neither a text nor an object with a prompt")


def _named(path: Path, name: str, entry: object) -> Wish:
    if isinstance(entry, str):
        return Wish(entry)
    if not isinstance(entry, Mapping) or not any(isinstance(entry.get(key), str) for key in _PROMPTS):
        raise ValueError(f"'{path}' has no text for '{name}'")
    return wish(entry, f"'{name}' in '{path}'")


def wish(given: Mapping[str, Any], where: str) -> Wish:
    """A wish from options by any of their names; `where` says in a message where they stand.

    Raises:
        ValueError: There is no prompt, or an option is not known or cannot be what it is.
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key in _PASSED_OVER or value is None:
            continue
        if key not in _FIELDS:
            raise ValueError(f"{where} has '{key}', which is not known; known are {', '.join(_FIELDS)}")
        attribute, read_value = _FIELDS[key]
        try:
            found[attribute] = read_value(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} has {value!r} for '{key}', which it cannot be") from error
    if not isinstance(found.get("prompt"), str):
        raise ValueError(f"{where} has no prompt")
    found["unread"] = tuple(key for key in _OF_OTHER_MODELS if given.get(key))
    return _sized(found, where)


def _sized(found: dict[str, Any], where: str) -> Wish:
    width, height = found.pop("size", (None, None))
    one = Wish(**{"width": width, "height": height, **found})
    if one.steps is not None and not 1 <= one.steps <= 1000:
        raise ValueError(f"{where} has {one.steps} steps; give 1 to 1000")
    if one.strength is not None and not 0 < one.strength <= 1:
        raise ValueError(f"{where} has strength {one.strength:g}; give a number above 0, and 1 at most")
    if not (one.width or one.height):
        return one
    return replace(one, width=_edge(one.width or one.height), height=_edge(one.height or one.width))


def _edge(pixels: int | None) -> int:
    """The multiple of 16 below, as sd-scripts takes it."""
    return max(64, (pixels or 0) // 16 * 16)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _natural(value: Any) -> int:
    number = int(str(value))
    if not 0 <= number < 2**62:
        raise ValueError
    return number


def _pixels(value: Any) -> int:
    number = _natural(value)
    if number >= 20_000:  # as for validation_resolution
        raise ValueError
    return number


def _number(value: Any) -> float:
    number = float(str(value))
    if not 0 <= number < 1e6:
        raise ValueError
    return number


def _factor(value: Any) -> float:
    number = float(str(value))
    if not abs(number) < 1e3:
        raise ValueError
    return number


def _size(value: Any) -> tuple[int, int]:
    width, _, height = str(value).lower().partition("x")
    return _pixels(width), _pixels(height or width)


_PROMPTS = ("prompt", "caption", "tags")
_NAMES = ("name", "shortname")
_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_PROMPTS, ("prompt", _text)),
    "negative_prompt": ("negative", _text),
    "width": ("width", _pixels),
    "height": ("height", _pixels),
    "resolution": ("size", _size),
    "seed": ("seed", _natural),
    **dict.fromkeys(("steps", "sample_steps", "num_inference_steps"), ("steps", _natural)),
    **dict.fromkeys(("guidance", "guidance_scale"), ("guidance", _number)),
    **dict.fromkeys(("guidance_real", "scale", "cfg_scale"), ("real", _number)),
    **dict.fromkeys(("image", "image_path", "control_image", "path"), ("image", _text)),
    "strength": ("strength", _number),
    "adapter_strength": ("adapter_strength", _factor),
}
_LETTERS = {
    "n": "negative_prompt",
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "l": "guidance_real",
    "g": "guidance",
    "cn": "image",
    "ss": "sample_sampler",
    "fs": "flow_shift",
    "ctr": "controlnet_ratio",
    "rcfg": "renorm_cfg",
}
_OF_OTHER_MODELS = ("bbox_entities",)
_PASSED_OVER = frozenset(
    {"sample_sampler", "flow_shift", "controlnet_ratio", "renorm_cfg", "enum", "original_lora", *_OF_OTHER_MODELS}
)
"""What files of other programs hold that means nothing for FLUX.1, there as here."""
_READERS: Mapping[str, Callable[[Path, str], Iterator[tuple[str, Wish]]]] = {
    ".txt": _from_text,
    ".toml": _from_toml,
    ".json": _from_json,
}
