"""What validation draws a prompt with: the model as it is trained, and with other adapters on top."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.models.adapters.merging import BaseAdapter
from simpletuner.models.worn import is_on_hub, wearing
from simpletuner.training.options import Validation

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Outfit:
    """Adapters that are put on for validation, under one name; none for the model as it is."""

    slug: str = ""
    adapters: tuple[BaseAdapter, ...] = ()


@dataclass(frozen=True)
class Look:
    """One way in which all prompts are drawn."""

    slug: str
    """A part of the names of its pictures; empty for the model as it is trained."""
    wear: Callable[[], AbstractContextManager[object]] = nullcontext
    """A moment in which the model looks like that."""


def looks(options: Validation, module: nn.Module) -> tuple[Look, ...]:
    """Every way in which a run draws its prompts."""
    return tuple(
        Look(one.slug, partial(wearing, module, one.adapters)) if one.adapters else Look(one.slug)
        for one in outfits(options)
    )


def outfits(options: Validation) -> tuple[Outfit, ...]:
    """The adapters that options name, in the order in which they are drawn.

    Raises:
        ValueError: They are not what they should be, or a file is missing; the message says which.
    """
    if options.validation_adapter_config is not None:
        return (Outfit(), *_named(_runs(options.validation_adapter_config)))
    path = options.validation_adapter_path
    if path is None or options.validation_adapter_mode == "none":
        return (Outfit(),)
    name, strength = options.validation_adapter_name, options.validation_adapter_strength
    other = _run({"path": path, "name": name, "strength": strength})
    return (other,) if options.validation_adapter_mode == "adapter_only" else (Outfit(), other)


def _named(runs: Sequence[Any]) -> list[Outfit]:
    found = [_run(one) for one in runs]
    if len({one.slug for one in found}) < len(found):
        raise ValueError("two runs have the same name; give each a label of its own")
    return found


def _runs(given: Any) -> Sequence[Any]:
    """The list of runs in an option, in a JSON text, or in a JSON file."""
    if isinstance(given, str) and not given.lstrip().startswith(("[", "{")):
        try:
            given = Path(given).expanduser().read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"'{given}' cannot be read: {error.strerror}") from error
    try:
        whole = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from error
    runs = whole.get("runs") if isinstance(whole, Mapping) else whole
    if not isinstance(runs, (list, tuple)) or not runs:
        raise ValueError('must be a list of runs, or {"runs": [...]}')
    return runs


def _run(given: Any) -> Outfit:
    entry = {"path": given} if isinstance(given, str) else given
    if not isinstance(entry, Mapping):
        raise ValueError(f"{given!r} is neither a path nor an object with one")
    if unknown := set(entry) - {"label", "name", "path", "paths", "adapters", "strength"}:
        raise ValueError(f"'{sorted(unknown)[0]}' is not known; known are label, path, paths, adapters and strength")
    several = entry.get("paths") or entry.get("adapters") or [entry.get("path")]
    adapters = tuple(_adapter(one, entry.get("strength", 1.0)) for one in several)
    name = entry.get("label") or entry.get("name") or _stem(adapters[0].path)
    return Outfit(re.sub(r"[^\w-]+", "-", str(name)).strip("-")[:40] or "adapter", adapters)


def _adapter(given: Any, strength: Any) -> BaseAdapter:
    entry = {"path": given} if isinstance(given, str) else given
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise ValueError(f"{given!r} has no path")
    path = entry["path"]
    if not is_on_hub(path) and not Path(path).expanduser().exists():
        raise ValueError(f"there is no adapter '{path}'; check the path")
    try:
        return BaseAdapter(path, float(entry.get("strength", entry.get("scale", strength))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the strength of '{path}' is no number") from error


def _stem(path: str) -> str:
    return Path(path.replace(":", "/")).name.removesuffix(".safetensors")
