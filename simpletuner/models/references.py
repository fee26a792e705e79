"""Other pictures that a model looks at besides the prompt, as part of the conditioning of a sample.

Some models see them as tokens of their own (references), others as further channels of the noisy image.
"""

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


def without_references(conditioning: Conditioning) -> dict[str, Tensor]:
    """Everything else in a conditioning."""
    own = set(takewhile(conditioning.__contains__, map(name, count())))
    return {key: one for key, one in conditioning.items() if key not in own}


def channel(number: int) -> str:
    """The name of what lies over the image as further channels, counted from 0."""
    return f"channels_{number}"


def channels(conditioning: Conditioning) -> list[Tensor]:
    """All further channels in their order, with shape (batch, channels, height, width) each."""
    return [conditioning[one] for one in takewhile(conditioning.__contains__, map(channel, count()))]
