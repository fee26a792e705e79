"""Noise levels by a density that a few weights describe: a smooth curve through them, evenly spaced from 0 to 1.

The curve is made of cubic pieces whose slopes are limited so that it nowhere leaves the range between two neighbouring
weights (Fritsch and Butland 1984): what has no weight is never drawn, and no level gets a negative chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]


def levels(uniform: Tensor, weights: Sequence[float]) -> Tensor:
    """The noise levels that uniform numbers, with shape (batch,), stand for."""
    import numpy as np
    import torch

    places, shares = _table(tuple(weights))
    found = np.interp(uniform.double().numpy(), shares, places)
    return torch.from_numpy(found)


def density(places: Floats, weights: Sequence[float]) -> Floats:
    """The height of the curve at some places in 0..1; its area is not one."""
    import numpy as np

    known = np.asarray(weights, dtype=np.float64)
    slopes = _slopes(known)
    piece = np.minimum((places * (len(known) - 1)).astype(int), len(known) - 2)
    x = places * (len(known) - 1) - piece
    left, right = known[piece], known[piece + 1]
    rise = slopes[piece] * x * (1 - x) ** 2 - slopes[piece + 1] * x**2 * (1 - x)
    found: Floats = left + (right - left) * x**2 * (3 - 2 * x) + rise
    return found


def _slopes(known: Floats) -> Floats:
    """The slope at each weight: the harmonic mean of those beside it, none at tops and bottoms or at the ends."""
    import numpy as np

    steps = np.diff(known)
    inner = [2 * one * other / (one + other) if one * other > 0 else 0.0 for one, other in pairwise(steps.tolist())]
    return np.array([0.0, *inner, 0.0])


@lru_cache(maxsize=4)
def _table(weights: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Places in 0..1, and the share of all samples below each of them."""
    import numpy as np

    places = np.linspace(0.0, 1.0, _PLACES)
    heights = density(places, weights)
    sums = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    return places, sums / sums[-1]


_PLACES = 16_385
