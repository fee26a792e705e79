"""Random LoRAs for the tiny Flux and its text encoders, in every shape that files have."""

from __future__ import annotations

import tiny
import torch

from simpletuner.models.adapters.formats.fitting import shapes
from simpletuner.models.adapters.formats.neutral import CLIP, T5, TRANSFORMER, Lora, LowRank

TEXT_LAYERS = {
    **{f"{CLIP}.text_model.encoder.layers.1.self_attn.{name}_proj": (24, 24) for name in ("q", "k", "v", "out")},
    f"{CLIP}.text_model.encoder.layers.10.mlp.fc1": (96, 24),
    f"{CLIP}.text_model.encoder.layers.10.mlp.fc2": (24, 96),
    **{f"{T5}.encoder.block.3.layer.0.SelfAttention.{name}": (32, 24) for name in "qkv"},
    f"{T5}.encoder.block.3.layer.0.SelfAttention.o": (24, 32),
    **{f"{T5}.encoder.block.3.layer.1.DenseReluDense.{name}": (48, 24) for name in ("wi_0", "wi_1")},
    f"{T5}.encoder.block.3.layer.1.DenseReluDense.wo": (24, 48),
}


def layers() -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every layer that can have an adapter."""
    transformer = {f"{TRANSFORMER}.{name}": shape for name, shape in shapes(tiny.flux()).items()}
    return {**transformer, **TEXT_LAYERS}


def low_rank(shape, rank, alpha, random, dtype=torch.float32, magnitude=False) -> LowRank:
    outputs, inputs = shape
    return LowRank(
        down=torch.randn(rank, inputs, generator=random).to(dtype),
        up=torch.randn(outputs, rank, generator=random).to(dtype),
        alpha=alpha,
        magnitude=torch.rand(outputs, generator=random) + 0.5 if magnitude else None,
    )


def adapter(
    *,
    only=lambda name: True,
    rank=lambda number: 4,
    alpha=lambda number: 4.0,
    dtype=torch.float32,
    magnitude=False,
    seed=0,
) -> Lora:
    """A LoRA on every layer that `only` takes; rank and alpha are asked for by the number of the layer."""
    random = torch.Generator().manual_seed(seed)
    chosen = {name: shape for name, shape in layers().items() if only(name)}
    return Lora(
        {
            name: low_rank(shape, rank(number), alpha(number), random, dtype, magnitude)
            for number, (name, shape) in enumerate(chosen.items())
        }
    )
