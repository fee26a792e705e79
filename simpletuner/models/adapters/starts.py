"""The matrices a LoRA starts from when it does not start from zero: one function per name, weights in, A and B out.

Each takes the weights of a layer with shape (out, in), the rank and the scaling (alpha divided by rank), and gives A
with shape (rank, in) and B with shape (out, rank). Scaling times B A is the part of the weights that is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError
from simpletuner.schema import Choice

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Start = Callable[["Tensor", int, float], "tuple[Tensor, Tensor]"]


def zero(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """One matrix starts at random, the other at zero."""
    raise NotImplementedError("PEFT makes this one")


def gaussian(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """The same, with normally distributed numbers scaled by the rank."""
    raise NotImplementedError("PEFT makes this one")


def pissa(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """Starts from the strongest directions of each layer (PiSSA), which learns faster."""
    return _split(*_strongest(weight, rank), scaling)


def olora(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """Starts from orthogonal directions of each layer (OLoRA)."""
    import torch

    orthogonal, triangular = torch.linalg.qr(weight)
    return triangular[:rank], orthogonal[:, :rank]


def loftq(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """Starts from what storing each layer in four bits would lose (LoftQ)."""
    return _split(*_strongest(weight - in_four_bits(weight), rank), scaling)


def _strongest(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values with their vectors; a random projection finds them fast (Halko et al. 2011)."""
    import torch

    size = min(2 * rank + 10, *weight.shape)
    left, values, right = torch.svd_lowrank(weight, q=size, niter=8)
    return left[:, :rank], values[:rank], right[:, :rank]


def _split(left: Tensor, values: Tensor, right: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    root = (values / scaling).sqrt()
    return root[:, None] * right.T, left * root


def in_four_bits(weight: Tensor) -> Tensor:
    """The weights after storing them as 4-bit NormalFloat with one scale for 64 numbers (Dettmers et al. 2023)."""
    import torch

    from simpletuner.models.precision.normal import LEVELS  # it defines layers' forms, which need torch

    count = -(-weight.numel() // _BLOCK) * _BLOCK
    flat = torch.nn.functional.pad(weight.flatten(), (0, count - weight.numel())).view(-1, _BLOCK)
    scale = flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    levels = torch.tensor(LEVELS).to(weight)
    between = (levels[1:] + levels[:-1]) / 2
    nearest: Tensor = (levels[torch.bucketize(flat / scale, between)] * scale).flatten()
    return nearest[: weight.numel()].view_as(weight)


_BLOCK = 64


def plain_weight(layer: nn.Module) -> Tensor:
    """The weights of a linear layer in float32, unpacked if need be."""
    import torch

    weight = layer.weight
    if type(layer) is torch.nn.Linear and isinstance(weight, torch.Tensor):
        return weight.detach().float()
    return _unpacked(layer)


def _unpacked(layer: nn.Module) -> Tensor:
    """What a packed layer answers to the unit vectors, less its bias: its weights, whatever the packing is."""
    import torch

    size = layer.in_features
    if not isinstance(size, int):
        raise ModelError(f"the weights of a {type(layer).__name__} cannot be read; use lora_init_type default.")
    where = next(tensor for tensor in (*layer.parameters(), *layer.buffers()))
    units = torch.eye(size, device=where.device, dtype=_dtype(layer))
    with torch.no_grad():
        answer = layer(units).float()
        nothing = layer(torch.zeros_like(units[:1])).float()
    found: Tensor = (answer - nothing).T.contiguous()
    return found


def _dtype(layer: nn.Module) -> torch.dtype:
    """The precision in which a packed layer computes."""
    import torch

    bias = layer.bias
    return bias.dtype if isinstance(bias, torch.Tensor) else torch.float32


STARTS: Choice[Start] = Choice(
    "LoRA start",
    {"default": zero, "gaussian": gaussian, "loftq": loftq, "olora": olora, "pissa": pissa},
)

FROM_NOTHING = frozenset({"default", "gaussian"})
"""Those that are not made of the weights of a layer, and so suit any rank and any weights."""
