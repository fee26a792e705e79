"""Checking the files before they are written, and writing them whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from simpletuner import files
from simpletuner.config import load
from simpletuner.errors import ConfigError, Problem
from simpletuner.selection import Selection
from simpletuner.storage.local import cannot_write, write_whole
from simpletuner.wizard.documents import Documents, options_of, put


def problems(documents: Documents, *, environment: Mapping[str, str], working: Path) -> tuple[Problem, ...]:
    """What `simpletuner check` would say to these files; they are only written into a folder that vanishes."""
    with TemporaryDirectory(prefix="simpletuner-configure-") as folder:
        trial = _moved(documents, Path(folder))
        for path, content in trial.contents().items():
            path.write_bytes(content)
        beside = documents.config_path.with_name("config.env")
        if beside.is_file():
            shutil.copy(beside, folder)
        try:
            load(Selection(config=str(trial.config_path)), environment=environment, folder=working)
        except ConfigError as error:
            return error.problems
    return ()


def pending(documents: Documents) -> dict[Path, bytes]:
    """The files that are not there yet, or that say something else; others keep their spaces and line ends too."""
    return {
        path: content
        for path, content in documents.contents().items()
        if not path.is_file() or files.read(path) != json.loads(content)
    }


def save(documents: Documents) -> None:
    """Put what is new or different in place, each file in one step.

    Raises:
        DataError: The disk does not take them.
    """
    for path, content in pending(documents).items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise cannot_write(path, error) from error


def _moved(documents: Documents, folder: Path) -> Documents:
    """The same files in another folder, pointing to each other there."""
    options = dict(options_of(documents.config))
    data, library = folder / "multidatabackend.json", folder / "user_prompt_library.json"
    put(options, "data_backend_config", str(data))
    put(options, "user_prompt_library", str(library))
    return replace(documents, config_path=folder / "config.json", data_path=data, library_path=library, config=options)
