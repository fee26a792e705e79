"""DyLoRA as its paper has it, in place of the package's: a LoRA that can be cut to a lower rank afterwards.

In each pass a random number of ranks takes part and the last block of them is trained. The package draws with Python's
generator, so that checkpointing would draw anew when it computes a pass again, draws in validation too, cannot do
without the plain weights, and scales otherwise than the file that it writes says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def mend(layer: Any) -> None:
    """Make a layer of the package behave."""
    layer.bypass_mode = True
    layer.bypass_forward_diff = partial(_added, layer)


def blocks(layer: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The two matrices of a published file in the blocks of ranks that are trained, by the names they have there."""
    import torch

    found: dict[str, Tensor] = {}
    for side, list_, axis in (("lora_up", "up_list", 1), ("lora_down", "down_list", 0)):
        parts = torch.split(tensors[f"{layer.lora_name}.{side}.weight"], layer.block_size, dim=axis)
        found |= {f"{layer.lora_name}.{list_}.{number}": one for number, one in enumerate(parts)}
    return found


def _added(layer: Any, input: Tensor, scale: float = 1.0, rank: int | None = None) -> Tensor:
    """What the layer adds; cut to any rank, a file with the same alpha adds exactly what was trained at that rank."""
    import torch
    from torch.nn import functional

    last = int(torch.randint(layer.block_count, ())) if layer.training else layer.block_count - 1
    down = torch.cat([*(one.detach() for one in layer.down_list[:last]), layer.down_list[last]]).to(input.dtype)
    up = torch.cat([*(one.detach() for one in layer.up_list[:last]), layer.up_list[last]], dim=1).to(input.dtype)
    share = float(layer.alpha) / ((last + 1) * layer.block_size)
    added: Tensor = functional.linear(functional.linear(input, down), up) * (share * scale)
    return added
