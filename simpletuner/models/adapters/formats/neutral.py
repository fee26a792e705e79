"""LoRA weights in the one form that every file format is read into and written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TRANSFORMER = "transformer"
CLIP = "text_encoder"
T5 = "text_encoder_2"
CONTROLNET = "controlnet"
PARTS = (TRANSFORMER, CLIP, T5, CONTROLNET)


@dataclass(frozen=True, eq=False)
class LowRank:
    """What is added to the weight of one linear layer: up times down, times alpha divided by the rank."""

    down: Tensor
    """With shape (rank, inputs); PEFT calls it A."""
    up: Tensor
    """With shape (outputs, rank); PEFT calls it B."""
    alpha: float
    magnitude: Tensor | None = None
    """The length of each row of the weight, with shape (outputs,): present with DoRA."""

    @property
    def rank(self) -> int:
        """The size of the adapter at this layer."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """What is added to the weight, with shape (outputs, inputs), in float32 or better."""
        return widened(self.up) @ widened(self.down) * self.scale

    def folded(self) -> LowRank:
        """The same with alpha equal to the rank, for readers that know of no alpha."""
        if self.alpha == self.rank:
            return self
        return LowRank(self.down, scaled(self.up, self.scale), float(self.rank), self.magnitude)


@dataclass(frozen=True, eq=False)
class Lora:
    """A whole adapter: layers by the names of diffusers, each after the name of its part.

    Parts are ``transformer``, ``text_encoder`` (CLIP-L), ``text_encoder_2`` (T5) and ``controlnet``, so that a name is
    ``transformer.transformer_blocks.0.attn.to_q`` or ``text_encoder.text_model.encoder.layers.0.mlp.fc1``.
    """

    layers: Mapping[str, LowRank]
    header: Mapping[str, str] = field(default_factory=dict)
    """What the file said about itself."""

    def of(self, part: str) -> dict[str, LowRank]:
        """The layers of one part, by their names inside it."""
        start = f"{part}."
        return {name.removeprefix(start): one for name, one in self.layers.items() if name.startswith(start)}

    @property
    def has_magnitudes(self) -> bool:
        """Whether any layer is DoRA."""
        return any(layer.magnitude is not None for layer in self.layers.values())


def scaled(weights: Tensor, factor: float) -> Tensor:
    """Weights times a number, in their own precision where that loses nothing and in float32 elsewhere."""
    return narrowed(widened(weights) * factor, weights.dtype)


def widened(weights: Tensor) -> Tensor:
    """Weights in float32, unless they are finer already."""
    import torch

    return weights.to(torch.promote_types(weights.dtype, torch.float32))


def narrowed(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights in another precision, unless that would change a value."""
    narrow = weights.to(dtype)
    return narrow if bool((narrow.to(weights.dtype) == weights).all()) else weights
