"""Config files as plain values: JSON, TOML and shell-style ``config.env``, with ``{env:NAME}`` filled in."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from simpletuner.errors import ConfigError, Problem
from simpletuner.legacy import ENVIRONMENT_NAMES

_ENVIRONMENT = re.compile(r"\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


def read(path: Path) -> Any:
    """The content of a config file, by its ending.

    Raises:
        ConfigError: The file is missing, is not text, or has a mistake; the message gives line and column.
    """
    return options_of(read_variables(path)) if path.suffix == ".env" else _parsed(path)


def read_variables(path: Path) -> dict[str, str]:
    """The variables of a ``config.env``; a ConfigError says what is wrong with the file."""
    found: dict[str, str] = _parsed(path)
    return found


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".env":
            return variables(text)
        return json.loads(text, object_pairs_hook=_without_twins)
    except OSError as error:
        raise ConfigError(str(path), [Problem("(whole file)", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Problem("(whole file)", f"is not UTF-8 text: {error.reason}")]) from error
    except json.JSONDecodeError as error:
        raise ConfigError(str(path), [_mistake(error)]) from error
    except ValueError as error:
        raise ConfigError(str(path), [Problem("(whole file)", str(error))]) from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"'{key}' is given twice; keep one of the two")
        seen[key] = value
    return seen


def _mistake(error: json.JSONDecodeError) -> Problem:
    """Where JSON is broken and how, in the same words on every version of Python."""
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :]
    if before.endswith(",") and rest[:1] in ("]", "}"):
        error = json.JSONDecodeError(_COMMA, error.doc, len(before) - 1)
    elif rest[:1] == "," and rest[1:].lstrip()[:1] in ("]", "}"):
        error = json.JSONDecodeError(_COMMA, error.doc, error.pos)
    elif rest[:1] in ("/", "#"):
        error = json.JSONDecodeError("JSON has no comments; take this one out", error.doc, error.pos)
    message = error.msg if error.msg.startswith("JSON") else f"{error.msg[:1].lower()}{error.msg[1:]}"
    return Problem(f"line {error.lineno}, column {error.colno}", message)


_COMMA = "JSON allows no comma after the last entry; take it out"


def variables(text: str) -> dict[str, str]:
    """The variables of a ``config.env``: ``K=V``, ``export K=V`` and ``K+=V``, with shell quoting.

    Raises:
        ValueError: A line is neither a comment nor an assignment.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = _words(line, number)
        for word in words[1:] if words[:1] == ["export"] else words:
            name, assigned, value = word.partition("=")
            if not assigned:
                raise ValueError(f"line {number}: '{word}' is not of the form NAME=value")
            if name.endswith("+"):
                value = found.get(name[:-1], "") + value
            found[name.rstrip("+")] = value
    return found


def _words(line: str, number: int) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise ValueError(f"line {number}: {str(error).lower()}") from error


def options_of(given: Mapping[str, str]) -> dict[str, Any]:
    """The options that shell variables stand for; variables that stand for none are left out."""
    found = {ENVIRONMENT_NAMES[name]: value for name, value in given.items() if name in ENVIRONMENT_NAMES}
    extra = given.get("TRAINER_EXTRA_ARGS", "")
    return {**found, **arguments(shlex.split(extra))}


def arguments(words: list[str], known: Container[str] = ()) -> dict[str, str]:
    """Options on a command line: ``key=value``, ``--key value``, ``--key=value``, or ``--key`` alone for true.

    `known` holds the option names, so that in ``--push_to_hub seed=1`` the second word is seen to be an option.
    """
    found: dict[str, str] = {}
    waiting: str | None = None
    for word in words:
        key, assigned, value = word.lstrip("-").partition("=")
        is_option = word.startswith("--") or (bool(assigned) and plain(key) in known) or waiting is None
        if not is_option and waiting is not None:
            found[waiting], waiting = word, None
            continue
        found[key] = value if assigned else "true"
        waiting = None if assigned else key
    return found


def plain(key: str) -> str:
    """An option's name without leading dashes, and with underscores."""
    return key.lstrip("-").replace("-", "_")


def filled(value: Any, environment: Mapping[str, str], missing: list[str]) -> Any:
    """The value with every ``{env:NAME}`` replaced; names that are not set stay, and are added to `missing`."""
    if isinstance(value, Mapping):
        return {key: filled(one, environment, missing) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, environment, missing) for one in value]
    if not isinstance(value, str):
        return value
    missing.extend(name for name in _ENVIRONMENT.findall(value) if name not in environment)
    return _ENVIRONMENT.sub(lambda found: environment.get(found[1], found[0]), value)
