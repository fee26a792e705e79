"""Values of an optimizer's settings, compared with what it has where nobody says anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def wrong(given: Mapping[str, Any], usual: Mapping[str, Any]) -> str | None:
    """What is wrong with the first setting that cannot be meant; one without a usual value is not looked at."""
    for name, value in given.items():
        if name in _NOT_OURS:
            return f"{name} cannot be set here; leave it out"
        if name in usual and (said := _wrong(name, value, usual[name])):
            return f"{name} {said}, got {value!r}"
    return None


_NOT_OURS = {"params", "fused_back_pass", "gradient_release"}
"""Who sets one of these calls the optimizer in another way than a run does, and would train nothing."""


def _wrong(name: str, value: Any, usual: Any) -> str | None:
    if isinstance(usual, tuple):
        return _wrong_numbers(name, value, usual)
    if isinstance(usual, bool):
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(usual, str):
        return None if isinstance(value, str) else "must be a word"
    if usual is None and (value is None or isinstance(value, bool)):
        return None
    return _wrong_number(name, value)


def _wrong_numbers(name: str, value: Any, usual: tuple[Any, ...]) -> str | None:
    is_list = isinstance(value, (list, tuple))
    if not is_list or (name in _COUNTED and len(value) != len(usual)):
        example = ",".join("none" if one is None else f"{one:g}" for one in usual)
        return f"must be {len(usual)} numbers, such as {name}={example}"
    pairs = zip(value, (*usual, *[usual[-1]] * len(value)), strict=False)
    said = (_wrong_number(name, one) for one, other in pairs if one is not None or other is not None)
    return next((one for one in said if one), None)


def _wrong_number(name: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "must be a number"
    if name == "betas" and not 0 <= value < 1:
        return "must be from 0 to below 1"
    if name in _COUNTS and (value < 1 or value != int(value)):
        return "must be a whole number of at least 1"
    return "must be at least 0" if name in _NEVER_NEGATIVE and value < 0 else None


_COUNTED = {"betas", "eps"}
_COUNTS = {"k", "ns_steps", "precondition_frequency"}
_NEVER_NEGATIVE = {"eps", "weight_decay"}
