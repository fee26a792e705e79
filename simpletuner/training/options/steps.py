"""How a number of steps is written: as such, as a share of the run, or in percent of it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema


def _read(value: Any) -> Any:
    text = str(value).strip()
    share = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if share else 1)
    except ValueError as error:
        raise ValueError(f"{_FORMS}, got {value!r}") from error
    if isinstance(value, bool) or not 0 <= number < math.inf or (share and number >= 1):
        raise ValueError(f"{_FORMS}, got {value!r}")
    if number < 1 and number > 0:
        return number
    if number != int(number):
        raise ValueError(f"{_FORMS}, got {value!r}")
    return int(number)


_FORMS = "must be a whole number of steps, a share of the run such as 0.05, or a percentage such as 5%"

Steps = Annotated[
    int | float,
    BeforeValidator(_read),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "number"}, {"type": "string"}]}),
]
"""A number of steps, or below 1 a share of all steps of a run."""


def steps_of(value: float, total: int) -> int:
    """How many steps are meant in a run of `total` steps."""
    return round(value * total) if 0 < value < 1 else int(value)


def as_written(value: float) -> str:
    """The same for people, such as 100 or 5%."""
    return f"{100 * value:g}%" if 0 < value < 1 else str(int(value))
