"""How far two adapters are apart in what they add to the weights, without ever making the sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.models.adapters.formats.neutral import Lora, LowRank

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-6
"""Rounding in float32 stays below this share of a layer's own size."""


@dataclass(frozen=True)
class Comparison:
    """Two adapters compared layer by layer."""

    layers: int
    """How many layers act in either of them."""
    apart: Mapping[str, float]
    """The layers that differ by more than rounding, each with the share by which it does."""
    largest: float
    """The largest share by which a layer differs."""


def compare(one: Lora, other: Lora) -> Comparison:
    """Compare what two adapters do; a layer that one of them lacks is one that adds nothing."""
    names = sorted({*one.layers, *other.layers})
    shares = {name: difference(one.layers.get(name), other.layers.get(name)) for name in names}
    return Comparison(
        layers=len(names),
        apart={name: share for name, share in shares.items() if not share <= TOLERANCE},
        largest=max(shares.values(), default=0.0),
    )


def difference(one: LowRank | None, other: LowRank | None) -> float:
    """The length of the difference of two updates as a share of the longer one; DoRA's lengths count too."""
    factors = [_factors(layer) for layer in (one, other) if layer is not None]
    longest = max(_length(up, down) for up, down in factors)
    apart = _apart(factors)
    return max(apart / longest if longest else 0.0, _apart_in_magnitude(one, other))


def _factors(layer: LowRank) -> tuple[Tensor, Tensor]:
    return layer.up.double() * layer.scale, layer.down.double()


def _apart(factors: list[tuple[Tensor, Tensor]]) -> float:
    import torch

    (up, down), *rest = factors
    for other_up, other_down in rest:
        if up.shape[0] != other_up.shape[0] or down.shape[1] != other_down.shape[1]:
            return float("inf")
        up, down = torch.cat([up, -other_up], dim=1), torch.cat([down, other_down])
    return _length(up, down)


def _length(up: Tensor, down: Tensor) -> float:
    """The Frobenius norm of a product, by way of two small triangles."""
    import torch

    left = torch.linalg.qr(up, mode="r").R
    right = torch.linalg.qr(down.T, mode="r").R
    return float((left @ right.T).norm())


def _apart_in_magnitude(one: LowRank | None, other: LowRank | None) -> float:
    lengths = [layer.magnitude for layer in (one, other) if layer is not None and layer.magnitude is not None]
    if len(lengths) < 2:
        return float("inf") if lengths else 0.0
    first, second = (length.double() for length in lengths)
    return float((first - second).norm() / first.norm()) if first.shape == second.shape else float("inf")
