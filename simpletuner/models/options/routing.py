"""Leaving out parts of the work while training."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from simpletuner.schema import IfChanged, NotYet, Section


class TreadRoute(Section):
    """A range of blocks that a share of the image skips while training."""

    selection_ratio: float = Field(ge=0, lt=1)
    """The share of the image's tokens that skips the blocks."""
    start_layer_idx: int
    """The first block that is skipped; negative numbers count from behind."""
    end_layer_idx: int
    """The last block that is skipped; negative numbers count from behind."""


class TreadConfig(Section):
    """Routes for token routing."""

    routes: tuple[TreadRoute, ...]
    """Ranges of blocks, one after the other."""

    @field_validator("routes")
    @classmethod
    def _at_least_one(cls, value: tuple[TreadRoute, ...]) -> tuple[TreadRoute, ...]:
        if not value:
            raise ValueError("names no route; add one, or leave tread_config out")
        return value


def _object(value: Any) -> Any:
    """Accept an object, or text that holds one as JSON or as a Python literal."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"is neither an object nor JSON text of one, got {value!r}") from error


class Routing(Section):
    """Leaving out parts of the work while training."""

    if_changed: ClassVar[IfChanged] = IfChanged.TOLD

    tread_config: Annotated[TreadConfig | None, BeforeValidator(_object)] = None
    """Lets a share of the image skip some blocks (TREAD): faster steps, and a loss that reads higher."""
    diffusion_blocks_config: Annotated[
        Mapping[str, Any] | str | None, NotYet("leave it out: all blocks are trained")
    ] = None
    """Trains groups of blocks one after the other."""
