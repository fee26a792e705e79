"""The shapes that a data set may crop to, as users write them: plain numbers, or objects with weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose, isfinite
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_NAMES = ("aspect", "aspect_ratio", "aspect_bucket")


def _pairs(given: Any) -> tuple[tuple[float, float], ...]:
    """Each aspect ratio with its weight; all weights together are 1."""
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"must be a list such as [0.75, 1.0, 1.5], got {given!r}")
    shapes = [_pair(one) for one in given]
    return tuple(zip([aspect for aspect, _ in shapes], _shares([weight for _, weight in shapes]), strict=True))


def _shares(weights: list[float | None]) -> list[float]:
    """What is left by the weights that are given is shared by the others."""
    total, others = sum(weight or 0 for weight in weights), weights.count(None)
    if others and total >= 1:
        raise ValueError(f"the weights sum to {total:g}, which leaves nothing for shapes without a weight")
    if weights and not others and not isclose(total, 1, abs_tol=_TOLERANCE):
        raise ValueError(f"the weights must sum to 1, but their sum is {total:g}")
    shares = [(1 - total) / others if weight is None else weight for weight in weights]
    return [share / sum(shares) for share in shares]


def _pair(given: Any) -> tuple[float, float | None]:
    if isinstance(given, Mapping):
        return _named(given)
    if isinstance(given, (list, tuple)) and len(given) == 2:  # what a saved config has
        return _number(given[0], "aspect ratio"), _number(given[1], "weight")
    return _number(given, "aspect ratio"), None


def _named(given: Mapping[str, Any]) -> tuple[float, float | None]:
    names = [name for name in _NAMES if name in given]
    unknown = sorted(set(given) - {*_NAMES, "weight"})
    if len(names) != 1 or unknown:
        raise ValueError(f'an object must look like {{"aspect": 1.5, "weight": 0.5}}, got {dict(given)!r}')
    weight = given.get("weight")
    return _number(given[names[0]], names[0]), None if weight is None else _number(weight, "weight")


def _number(given: Any, noun: str) -> float:
    try:
        number = float("nan") if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number) or number <= 0:
        raise ValueError(f"each {noun} must be a number above 0, got {given!r}")
    return number


_TOLERANCE = 0.0011  # three times 0.333

AspectBuckets = Annotated[
    tuple[tuple[float, float], ...],
    BeforeValidator(_pairs),
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "number", "exclusiveMinimum": 0},
                    {
                        "type": "object",
                        "properties": {
                            **{name: {"type": "number", "exclusiveMinimum": 0} for name in _NAMES},
                            "weight": {"type": "number", "exclusiveMinimum": 0},
                        },
                        "additionalProperties": False,
                    },
                ]
            },
        }
    ),
]
"""Pairs of an aspect ratio, width divided by height, and a weight; given as numbers or as objects."""
