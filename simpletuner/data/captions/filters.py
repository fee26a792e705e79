"""What caption_filter_list takes out of captions: words, regular expressions, and replacements like ``s/old/new``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from simpletuner.data.captions.spelling import decode_text
from simpletuner.errors import DataError


def load_filters(entries: Sequence[str], folder: Path = Path()) -> tuple[str, ...]:
    """The entries of a filter list, read from its file when the list is nothing but the name of one.

    Args:
        entries: What stands in caption_filter_list: filters, or one .json or .txt file that holds them.
        folder: Where a relative path starts.

    Raises:
        DataError: The file cannot be read, or an entry is no regular expression; every such entry is named.
    """
    from_file = len(entries) == 1 and Path(entries[0]).suffix.lower() in _READERS
    filters = _read(folder / Path(entries[0]).expanduser()) if from_file else tuple(entries)
    mistakes = [mistake for entry in filters if (mistake := _mistake(entry))]
    if mistakes:
        source = f" in {entries[0]}" if from_file else ""
        raise DataError(f"caption filters{source} that are no regular expressions: {', '.join(mistakes)}; {_ADVICE}")
    return filters


def filtered(caption: str, filters: tuple[str, ...]) -> str:
    """The caption after every filter in turn."""
    for change in _changes(filters):
        caption = change(caption)
    return caption


@lru_cache(maxsize=64)
def _changes(filters: tuple[str, ...]) -> tuple[Callable[[str], str], ...]:
    return tuple(_change(entry) for entry in filters if entry)


def _change(entry: str) -> Callable[[str], str]:
    """What one entry does to a caption."""
    find, replacement = _parts(entry)
    pattern = re.compile(find)
    if replacement is not None:
        return lambda caption: pattern.sub(replacement, caption)
    return lambda caption: pattern.sub("", caption.replace(entry, ""))


def _parts(entry: str) -> tuple[str, str | None]:
    """What is searched for and, in an entry like s/old/new, what takes its place."""
    if entry.startswith("s/") and entry.count("/") == 2:
        _, find, replacement = entry.split("/")
        return find, replacement
    return entry, None


def _mistake(entry: str) -> str:
    """Why an entry is no regular expression; empty when it is one."""
    find, replacement = _parts(entry)
    try:
        re.compile(find).sub(replacement or "", "")
    except (re.error, IndexError, OverflowError, RecursionError) as error:
        return f"'{entry}' ({error})"
    return ""


def _read(path: Path) -> tuple[str, ...]:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"caption filters in {path} cannot be read ({reason}); name a file that is there") from error
    return _READERS[path.suffix.lower()](path, decode_text(data))


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"caption filters in {path} are not JSON, line {error.lineno} column {error.colno}: {error.msg}"
        ) from error
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise DataError(f'caption filters in {path} must be a list of texts, like ["watermark", "s/old/new"]')
    return tuple(entry for entry in entries if entry)


def _from_lines(path: Path, text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


_READERS = {".json": _from_json, ".txt": _from_lines}
_ADVICE = "put a backslash in front of each bracket, star, plus or question mark that is meant as itself"
