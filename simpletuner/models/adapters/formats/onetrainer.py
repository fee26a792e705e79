"""The names of OneTrainer: those of diffusers with underscores, with alpha beside each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from simpletuner.models.adapters.formats import kohya, places
from simpletuner.models.adapters.formats.names import DIFFUSERS_OR_FUSED, Names, Place
from simpletuner.models.adapters.formats.neutral import TRANSFORMER, Lora

if TYPE_CHECKING:
    from torch import Tensor

_READ: places.Prefixes = {
    "lora_transformer_": (TRANSFORMER, Names(DIFFUSERS_OR_FUSED, is_flat=True)),
    **kohya.TEXT_ENCODERS,
    **kohya.OTHER_TEXT_ENCODERS,
}


def place(layer: str) -> Place | None:
    """Where a layer of a file in this format belongs."""
    return places.place(_READ, layer)


def read(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Lora:
    """The adapter in a file of this format."""
    return Lora(places.read(tensors, place), header)
