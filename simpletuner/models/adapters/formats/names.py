"""The names of Flux's layers: Black Forest Labs' own against those of diffusers, and the text encoders'.

Names are templates with ``{}`` for the number of the block. A name whose dots were replaced by underscores is never
taken apart; it is looked up among all names written that way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where one layer of a file belongs: one layer of diffusers, or several whose outputs lie one after the other."""

    parts: tuple[str, ...]
    shares: tuple[int, ...] = (1,)
    """How the outputs are divided among the parts."""
    is_swapped: bool = False
    """Whether the first and the second half of the outputs have changed places."""

    def numbered(self, number: str) -> Place:
        """The place in one block."""
        return Place(tuple(part.format(number) for part in self.parts), self.shares, self.is_swapped)

    def under(self, part: str) -> Place:
        """The place with the name of the model's part in front."""
        return Place(tuple(f"{part}.{name}" for name in self.parts), self.shares, self.is_swapped)


def _blocks(prefix: str, parts: Mapping[str, Place]) -> dict[str, Place]:
    return {name: Place(tuple(f"{prefix}.{part}" for part in at.parts), at.shares) for name, at in parts.items()}


def _one(name: str) -> Place:
    return Place((name,))


_THIRDS = (1, 1, 1)
_DOUBLE = {
    "double_blocks.{}.img_attn.qkv": Place(("attn.to_q", "attn.to_k", "attn.to_v"), _THIRDS),
    "double_blocks.{}.img_attn.proj": _one("attn.to_out.0"),
    "double_blocks.{}.img_mlp.0": _one("ff.net.0.proj"),
    "double_blocks.{}.img_mlp.2": _one("ff.net.2"),
    "double_blocks.{}.img_mod.lin": _one("norm1.linear"),
    "double_blocks.{}.txt_attn.qkv": Place(("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), _THIRDS),
    "double_blocks.{}.txt_attn.proj": _one("attn.to_add_out"),
    "double_blocks.{}.txt_mlp.0": _one("ff_context.net.0.proj"),
    "double_blocks.{}.txt_mlp.2": _one("ff_context.net.2"),
    "double_blocks.{}.txt_mod.lin": _one("norm1_context.linear"),
}
_SINGLE = {
    # The feed-forward layer of a single block is four times as wide as the model, in every Flux.
    "single_blocks.{}.linear1": Place(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), (1, 1, 1, 4)),
    "single_blocks.{}.linear2": _one("proj_out"),
    "single_blocks.{}.modulation.lin": _one("norm.linear"),
}
_AROUND = {
    "img_in": _one("x_embedder"),
    "txt_in": _one("context_embedder"),
    "time_in.in_layer": _one("time_text_embed.timestep_embedder.linear_1"),
    "time_in.out_layer": _one("time_text_embed.timestep_embedder.linear_2"),
    "guidance_in.in_layer": _one("time_text_embed.guidance_embedder.linear_1"),
    "guidance_in.out_layer": _one("time_text_embed.guidance_embedder.linear_2"),
    "vector_in.in_layer": _one("time_text_embed.text_embedder.linear_1"),
    "vector_in.out_layer": _one("time_text_embed.text_embedder.linear_2"),
    "final_layer.linear": _one("proj_out"),
    # BFL has shift before scale, diffusers scale before shift.
    "final_layer.adaLN_modulation.1": Place(("norm_out.linear",), is_swapped=True),
}
_CHROMA = {
    "distilled_guidance_layer.in_proj": _one("distilled_guidance_layer.in_proj"),
    "distilled_guidance_layer.out_proj": _one("distilled_guidance_layer.out_proj"),
    "distilled_guidance_layer.layers.{}.in_layer": _one("distilled_guidance_layer.layers.{}.linear_1"),
    "distilled_guidance_layer.layers.{}.out_layer": _one("distilled_guidance_layer.layers.{}.linear_2"),
}
BFL: Mapping[str, Place] = {
    **_blocks("transformer_blocks.{}", _DOUBLE),
    **_blocks("single_transformer_blocks.{}", _SINGLE),
    **_AROUND,
    **_CHROMA,
}
"""The transformer, by the names that Black Forest Labs gave its layers."""

DIFFUSERS: Mapping[str, Place] = {part: _one(part) for place in BFL.values() for part in place.parts}
"""The transformer, by the names of diffusers."""

_FUSED = {
    "transformer_blocks.{}.attn.to_qkv": BFL["double_blocks.{}.img_attn.qkv"],
    "transformer_blocks.{}.attn.to_added_qkv": BFL["double_blocks.{}.txt_attn.qkv"],
    "single_transformer_blocks.{}.attn.to_qkv": Place(BFL["single_blocks.{}.linear1"].parts[:3], _THIRDS),
}
_CONTROLNET = {
    name: _one(name) for name in ("controlnet_x_embedder", "controlnet_blocks.{}", "controlnet_single_blocks.{}")
}
DIFFUSERS_OR_FUSED: Mapping[str, Place] = {**DIFFUSERS, **_FUSED, **_CONTROLNET}
"""The same with the attention layers that diffusers can join into one, and what a ControlNet has besides."""


def _same(pattern: str, endings: Iterable[str]) -> dict[str, Place]:
    return {name: _one(name) for name in (pattern + ending for ending in endings)}


CLIP_LAYERS: Mapping[str, Place] = _same(
    "text_model.encoder.layers.{}.",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"),
)
T5_LAYERS: Mapping[str, Place] = {
    **_same("encoder.block.{}.layer.0.SelfAttention.", "qkvo"),
    **_same("encoder.block.{}.layer.1.DenseReluDense.", ("wi_0", "wi_1", "wo")),
}


class Names:
    """Looks layers up by names as they stand in a file."""

    def __init__(self, places: Mapping[str, Place], *, is_flat: bool = False) -> None:
        """With `is_flat`, names in the file have underscores in place of dots."""
        self._places = {name.replace(".", "_") if is_flat else name: place for name, place in places.items()}
        self._owners = {
            part: name.replace(".", "_") if is_flat else name for name, place in places.items() for part in place.parts
        }

    def place(self, name: str) -> Place | None:
        """Where a layer of the file belongs."""
        template, number = _template(name)
        found = self._places.get(template)
        return found and found.numbered(number)

    def owner(self, part: str) -> str | None:
        """The layer of the file that a layer of diffusers belongs to."""
        template, number = _template(part)
        found = self._owners.get(template)
        return found and found.format(number)


# Only the number of a block: the other digits in a name are part of it.
_NUMBER = re.compile(r"(?:(?<=blocks[._])|(?<=layers[._])|(?<=block[._]))\d+")


def _template(name: str) -> tuple[str, str]:
    found = _NUMBER.search(name)
    return (_NUMBER.sub("{}", name, count=1), found[0]) if found else (name, "")
