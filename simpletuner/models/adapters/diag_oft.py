"""diag-OFT beside a packed base at another multiplier than 1, or with dropout, which the package cannot compute.

There, its `_bypass_forward` ends in an error: it takes the numbers of a product for contiguous ones, and multiplies
shapes that do not belong together.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def mend(layer: Any) -> None:
    """Make a layer of the package behave."""
    layer.dropout = 0.0
    layer._bypass_forward = partial(_turned, layer)


def _turned(layer: Any, input: Tensor, scale: float = 1.0, diff: bool = False) -> Tensor:
    """Between what the base says and the same turned; lengths of `rescaled` act whole, as on a plain base."""
    theirs = type(layer)._bypass_forward
    found: Tensor = theirs(layer, input, 1.0, diff and scale == 1)
    if scale == 1:
        return found
    plain = layer.org_forward(input)
    still = layer.rescale.transpose(-1, 0) * plain if layer.rescaled else plain
    between: Tensor = scale * found + (1 - scale) * still
    return between - plain if diff else between
