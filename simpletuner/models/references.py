"""Other pictures that a model looks at besides the prompt, as part of the conditioning of a sample."""

from __future__ import annotations

from itertools import count, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.family import Conditioning

KINDS = frozenset({"reference_strict", "reference_loose", "controlnet"})
"""The conditioning types whose pictures are looked at; one that a ControlNet follows is a reference like another."""


def name(number: int) -> str:
    """The name of a reference in a conditioning, counted from 0."""
    return f"reference_{number}"


def references(conditioning: Conditioning) -> list[Tensor]:
    """The latents of all references in their order, with shape (batch, channels, height, width) each."""
    return [conditioning[one] for one in takewhile(conditioning.__contains__, map(name, count()))]
