"""Keeping what an adapter adds to the weights of a layer within a length, as sd-scripts' scale_weight_norms does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from simpletuner.models.adapters.lora_state import ADAPTER

if TYPE_CHECKING:
    from torch import Tensor


def limit(layers: Iterable[Any], largest: float) -> Mapping[str, float]:
    """Shrink both matrices of every layer whose product is longer than `largest`; says what was found."""
    import torch

    with torch.no_grad():
        norms = torch.stack([_limited(layer, largest) for layer in layers])
    return {
        "adapter_norm_limited": float((norms > largest).sum()),
        "adapter_norm_mean": float(norms.clamp_max(largest).mean()),
        "adapter_norm_max": float(norms.max()),
    }


def _limited(layer: Any, largest: float) -> Tensor:
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    norm: Tensor = layer.scaling[ADAPTER] * product_norm(down.float(), up.float())
    share = (largest / norm.clamp_min(largest)).sqrt()
    down.mul_(share)
    up.mul_(share)
    return norm


def product_norm(down: Tensor, up: Tensor) -> Tensor:
    """The Frobenius norm of up times down, from matrices of the rank's size alone: its square is tr(BᵀB AAᵀ)."""
    squared = ((up.T @ up) * (down @ down.T)).sum()
    return squared.clamp_min(0).sqrt()
