"""Which prompts validation draws, and at which sizes. Imports no torch, so that a config can be checked with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from simpletuner.training.options import Validation


@dataclass(frozen=True)
class Shot:
    """One validation image: a prompt at a size, from a seed."""

    name: str
    prompt: str
    width: int
    height: int
    seed: int


def shots(options: Validation, seed: int) -> tuple[Shot, ...]:
    """Every image a validation draws, in the order of the sheet."""
    first = options.validation_seed if options.validation_seed is not None else seed
    named = file_names(prompts(options))
    return tuple(
        Shot(name, prompt, width, height, first + number)
        for width, height in options.sizes()
        for name, prompt in named.items()
        for number in range(options.num_validation_images)
    )


def file_names(named: Mapping[str, str]) -> dict[str, str]:
    """The same prompts under names that can be parts of file names, each one different."""
    found: dict[str, str] = {}
    for name, prompt in named.items():
        plain = re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "prompt"
        found[_free(plain, found)] = prompt
    return found


def _free(name: str, taken: Mapping[str, str]) -> str:
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(one for one in numbered if one not in taken)


def prompts(options: Validation) -> dict[str, str]:
    """Prompts by their short names: the library first, then the single prompt, then the empty one."""
    found = dict(library(Path(options.user_prompt_library))) if options.user_prompt_library else {}
    if options.validation_prompt:
        found[_free("validation", found)] = options.validation_prompt
    if not options.validation_disable_unconditional:
        found[_free("unconditional", found)] = ""
    return found


def library(path: Path) -> Mapping[str, str]:
    """The prompts of a library file: ``{"name": "prompt"}`` or ``{"name": {"prompt": "..."}}``.

    Raises:
        ValueError: The file is missing or is not such an object; the message says what is wrong.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(raw, Mapping):
        raise ValueError(f"'{path}' must be an object of names and prompts")
    return {str(name): _text(path, name, entry) for name, entry in raw.items()}


def _text(path: Path, name: str, entry: object) -> str:
    if isinstance(entry, Mapping):
        entry = next((entry[key] for key in ("prompt", "caption", "tags") if key in entry), None)
    if not isinstance(entry, str):
        raise ValueError(f"'{path}' has no text for '{name}'")
    return entry


def texts(options: Validation, chosen: Sequence[Shot]) -> list[str]:
    """Every prompt that must be encoded for validation, the negative one included."""
    wanted = [shot.prompt for shot in chosen]
    if chosen and options.validation_guidance_real > 1:
        wanted.append(options.validation_negative_prompt)
    return list(dict.fromkeys(wanted))
