"""What a table, a JSON file or a column says about an image, in whatever shape it says it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from simpletuner.data.items import Size


def texts(value: object) -> tuple[str, ...]:
    """Every text in a cell: a list or an object holds alternatives, and blanks say nothing."""
    if isinstance(value, str):  # nearly always
        return (value,) if value.strip() else ()
    return tuple(dict.fromkeys(text for text in _texts(value) if text.strip()))


def first_said(values: Iterable[object]) -> tuple[str, ...]:
    """The texts of the first cell that says anything."""
    return next((found for found in map(texts, values) if found), ())


def within(row: Mapping[str, object], path: str) -> object:
    """A cell by the name of its column; `a.b` is the part `b` of the objects in the column `a`."""
    if path in row:
        return row[path]
    head, dot, rest = path.partition(".")
    inner = row.get(head)
    return within(inner, rest) if dot and isinstance(inner, Mapping) else None


def number(value: object) -> float | None:
    """The number in a cell, also one that is written as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def size(width: object, height: object) -> Size | None:
    """A size, where both edges are said and can be true."""
    edges = (number(width), number(height))
    whole = [int(edge) for edge in edges if edge is not None and edge >= 1]
    return Size(*whole) if len(whole) == 2 else None


def stamped(version: str, *marks: object) -> str:
    """The version of a file about which a table says more: what the table says is part of it."""
    return "/".join([version, *map(str, marks)]) if version else ""


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        for one in value:
            yield from _texts(one)
    elif number(value) is not None:
        yield str(value)
