"""The names that ComfyUI gives the model's own layers, after `diffusion_model.`, with alpha beside each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from simpletuner.models.adapters.formats import keys, places
from simpletuner.models.adapters.formats.names import BFL, CLIP_LAYERS, T5_LAYERS, Names, Place
from simpletuner.models.adapters.formats.neutral import CLIP, T5, TRANSFORMER, Lora

if TYPE_CHECKING:
    from torch import Tensor

_TRANSFORMER = (TRANSFORMER, Names(BFL))
_WRITTEN: places.Prefixes = {
    "diffusion_model.": _TRANSFORMER,
    "text_encoders.clip_l.transformer.": (CLIP, Names(CLIP_LAYERS)),
    "text_encoders.t5xxl.transformer.": (T5, Names(T5_LAYERS)),
}
_READ: places.Prefixes = {
    **_WRITTEN,
    "model.diffusion_model.": _TRANSFORMER,
    "base_model.model.": _TRANSFORMER,
    "": _TRANSFORMER,
}


def place(layer: str) -> Place | None:
    """Where a layer of a file in this format belongs."""
    return places.place(_READ, layer)


def read(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Lora:
    """The adapter in a file of this format."""
    return Lora(places.read(tensors, place), header)


def write(lora: Lora) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file; its header says nothing about the network.

    The matrices are called down and up: diffusers, too, reads a file with these names.
    """
    return keys.with_alphas(places.joined(lora.layers, _WRITTEN, "comfyui"), "lora_down", "lora_up"), {}
