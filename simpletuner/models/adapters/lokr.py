"""LoKr with rank_dropout on a card, where the package multiplies tensors of two devices, and with rs_lora.

Two whole matrices have no rank to be scaled by, and whatever reads their file knows that; the package scales them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def mend(layer: Any) -> None:
    """Make a layer of the package behave."""
    share, layer.rank_dropout = layer.rank_dropout, 0.0
    layer.get_weight = partial(_weight, layer, share)
    if is_whole(layer):
        layer.scale = 1.0
        layer.alpha.fill_(layer.lora_dim)


def is_whole(layer: Any) -> bool:
    """Whether neither matrix is made of smaller ones."""
    return {"lokr_w1", "lokr_w2"} <= {name for name, _ in layer.named_parameters()}


def _weight(layer: Any, share: float, shape: Any) -> Tensor:
    """What is added to the weights; in training, some of its rows are left out."""
    import torch

    weight: Tensor = type(layer).get_weight(layer, shape)
    if not (layer.training and share):
        return weight
    kept = (torch.rand(len(weight)) > share).to(weight)
    return weight * kept.view(-1, *[1] * (weight.ndim - 1))
