"""The files that a config names, read while it is read: data sets, prompts, settings of LyCORIS, and webhooks.

A file is looked for from the working directory, beside the config, and among the packaged examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simpletuner import files, selection
from simpletuner.data.entries import read_entries
from simpletuner.data.sources import DataEntry
from simpletuner.errors import ConfigError, Problem
from simpletuner.models.adapters import lycoris_settings
from simpletuner.training.prompts import library


def data_file(
    flat: Mapping[str, Any], path: Path, environment: Mapping[str, str], folder: Path
) -> tuple[tuple[DataEntry, ...], list[Problem]]:
    """The data sets of the file that the config names, and what is wrong with them."""
    named = flat.get("data_backend_config")
    if not named:
        return (), []
    place = _located(str(named), path, folder)
    if place is None:
        return (), [_nowhere("data_backend_config", named, path, folder)]
    try:
        raw = files.read(place)
    except ConfigError as error:
        return (), _inside(place, error)
    missing: list[str] = []
    placeholders = {name: str(flat[name]) for name in ("model_family", "output_dir") if name in flat}
    entries, found = read_entries(files.filled(raw, environment, missing), placeholders=placeholders)
    return entries, [*found, *(not_set(name, place.name) for name in dict.fromkeys(missing))]


def prompt_library(flat: dict[str, Any], path: Path, folder: Path) -> list[Problem]:
    """Replace the library's path by the file it stands for, and see that prompts are in it."""
    named = flat.get("user_prompt_library")
    if not named:
        return []
    place = _located(str(named), path, folder)
    if place is None:
        return [_nowhere("user_prompt_library", named, path, folder)]
    flat["user_prompt_library"] = str(place)
    try:
        library(place)
    except ValueError as error:
        return [Problem("user_prompt_library", str(error))]
    return []


def lycoris_file(flat: dict[str, Any], path: Path, folder: Path) -> None:
    """Replace the path of the LyCORIS settings by the file it stands for; a missing one is found by the rules."""
    named = flat.get("lycoris_config") or lycoris_settings.DEFAULT_PATH
    is_path = isinstance(named, str) and not named.strip().startswith("{")
    if flat.get("lora_type") == "lycoris" and is_path and (place := _located(named, path, folder)):
        flat["lycoris_config"] = str(place)


def webhook_file(flat: dict[str, Any], path: Path, environment: Mapping[str, str], folder: Path) -> list[Problem]:
    """Replace the path of a file with webhooks by what is in it; what cannot be read is told and left out."""
    named = flat.get("webhook_config")
    if not isinstance(named, str) or not named.strip() or named.strip().startswith(("{", "[")):
        return []
    del flat["webhook_config"]
    if "://" in named:  # which is a secret, and not repeated
        what = 'is an address; write {"webhook_type": "discord", "webhook_url": "..."} with it, or the name of a file'
        return [Problem("webhook_config", what)]
    place = _located(named, path, folder)
    if place is None:
        return [_nowhere("webhook_config", named, path, folder)]
    missing: list[str] = []
    try:
        found = files.filled(files.read(place), environment, missing)
    except ConfigError as error:
        return _inside(place, error)
    if not missing:
        flat["webhook_config"] = found
    return [not_set(name, place.name) for name in dict.fromkeys(missing)]


def _located(named: str, path: Path, folder: Path) -> Path | None:
    """A file that a config names: from the working directory, from beside the config, or from the packaged examples."""
    places = (folder / Path(named).expanduser(), path.parent / named, selection.packaged(named))
    return next((place for place in places if place is not None and place.is_file()), None)


def _inside(place: Path, error: ConfigError) -> list[Problem]:
    """What is wrong in a file that a config names."""
    return [Problem(f"{place} › {problem.where}", problem.what) for problem in error.problems]


def _nowhere(option: str, named: object, path: Path, folder: Path) -> Problem:
    return Problem(option, f"'{named}' exists neither in {folder} nor beside {path.name}")


def not_set(name: str, *within: str) -> Problem:
    """A placeholder whose environment variable is not set."""
    return Problem(" › ".join([*within, f"{{env:{name}}}"]), "this environment variable is not set")
