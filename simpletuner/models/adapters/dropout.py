"""What of an adapter is left out at random while it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Dropout:
    """What is left out at random while training; each share is drawn anew for every layer and step."""

    share: float = 0.0
    """Of the numbers at `position`."""
    position: Literal["input", "rank"] = "input"
    """Before the first matrix, or between the two."""
    ranks: float = 0.0
    """Of the ranks, for each image."""
    layers: float = 0.0
    """Of the layers."""

    @property
    def before(self) -> float:
        """The share that is left out before the first matrix."""
        return self.share if self.position == "input" else 0.0

    @property
    def is_between(self) -> bool:
        """Whether anything is left out between the two matrices."""
        return bool(self.ranks or self.layers or (self.share and self.position == "rank"))

    def mask(self, inner: Tensor) -> Tensor:
        """What the numbers between the matrices, with shape (batch, ..., rank), are multiplied by."""
        import torch
        from torch.nn import functional

        mask = torch.ones_like(inner)
        if self.position == "rank":
            mask = functional.dropout(mask, self.share)
        if self.ranks:
            one_for_each_rank = [inner.shape[0], *([1] * (inner.ndim - 2)), inner.shape[-1]]
            mask = mask * functional.dropout(inner.new_ones(one_for_each_rank), self.ranks)
        if self.layers:
            mask = mask * (torch.rand((), device=inner.device) >= self.layers)
        return mask
