"""The names of sd-scripts (kohya): layers joined as Black Forest Labs did, with alpha beside each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from simpletuner.models.adapters.formats import keys, places
from simpletuner.models.adapters.formats.names import BFL, CLIP_LAYERS, T5_LAYERS, Names, Place
from simpletuner.models.adapters.formats.neutral import CLIP, T5, TRANSFORMER, Lora

if TYPE_CHECKING:
    from torch import Tensor

_CLIP = (CLIP, Names(CLIP_LAYERS, is_flat=True))
_T5 = (T5, Names(T5_LAYERS, is_flat=True))
TEXT_ENCODERS: places.Prefixes = {"lora_te1_": _CLIP, "lora_te3_": _T5}
OTHER_TEXT_ENCODERS: places.Prefixes = {"lora_te_": _CLIP, "lora_te2_": _T5}
_WRITTEN: places.Prefixes = {"lora_unet_": (TRANSFORMER, Names(BFL, is_flat=True)), **TEXT_ENCODERS}
_READ: places.Prefixes = {**_WRITTEN, **OTHER_TEXT_ENCODERS}


def place(layer: str) -> Place | None:
    """Where a layer of a file in this format belongs."""
    return places.place(_READ, layer)


def read(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Lora:
    """The adapter in a file of this format."""
    return Lora(places.read(tensors, place), header)


def write(lora: Lora) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and what its header says about the network."""
    layers = places.joined(lora.layers, _WRITTEN, "kohya")
    rank, alpha = Counter((layer.rank, layer.alpha) for layer in layers.values()).most_common(1)[0][0]
    header = {
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps({}),
        "ss_base_model_version": lora.header.get("ss_base_model_version", "flux1"),
    }
    return keys.with_alphas(layers, "lora_down", "lora_up"), header
