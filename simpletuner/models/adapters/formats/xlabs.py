"""The names of XLabs, whose adapters sit in the attention processors and have no alpha."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from simpletuner.models.adapters.formats import places
from simpletuner.models.adapters.formats.names import BFL, Names, Place
from simpletuner.models.adapters.formats.neutral import TRANSFORMER, Lora

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = Names(
    {
        "double_blocks.{}.processor.qkv_lora1": BFL["double_blocks.{}.img_attn.qkv"],
        "double_blocks.{}.processor.proj_lora1": BFL["double_blocks.{}.img_attn.proj"],
        "double_blocks.{}.processor.qkv_lora2": BFL["double_blocks.{}.txt_attn.qkv"],
        "double_blocks.{}.processor.proj_lora2": BFL["double_blocks.{}.txt_attn.proj"],
        # Without the feed-forward layer, which shares a weight with the attention in Black Forest Labs' code.
        "single_blocks.{}.processor.qkv_lora": Place(BFL["single_blocks.{}.linear1"].parts[:3], (1, 1, 1)),
        "single_blocks.{}.processor.proj_lora": BFL["single_blocks.{}.linear2"],
    }
)
_READ: places.Prefixes = {"": (TRANSFORMER, _NAMES), "diffusion_model.": (TRANSFORMER, _NAMES)}


def place(layer: str) -> Place | None:
    """Where a layer of a file in this format belongs."""
    return places.place(_READ, layer)


def read(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Lora:
    """The adapter in a file of this format."""
    return Lora(places.read(tensors, place), header)
