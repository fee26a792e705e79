"""NormalFloat, a form of four bits whose levels lie as densely as weights do (Dettmers et al. 2023, arXiv 2305.14314).

Codes are those of bitsandbytes, bit for bit, and its kernel unpacks them. On processors that kernel (0.50) silently
mixes up rows that are no whole number of groups, so those are looked up here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simpletuner.models.precision.forms import GROUP, Parts, WeightOnly, group_of


@dataclass(frozen=True)
class NormalFloat4(WeightOnly):
    """Sixteen levels, with one scale for each group of a row."""

    def fits(self, out_features: int, in_features: int) -> bool:
        """Two codes must fill a byte."""
        return in_features % 2 == 0

    def encode(self, weight: Tensor, dtype: torch.dtype) -> Parts:
        """The largest weight of a group becomes 1, the others the nearest level."""
        grouped = torch.unflatten(weight, -1, (-1, group_of(weight.shape[-1])))
        scale = grouped.abs().amax(-1, keepdim=True).to(dtype)
        levels = torch.tensor(LEVELS, device=weight.device)
        whole = grouped / torch.where(scale > 0, scale, torch.ones_like(scale)).float()
        nearest = torch.bucketize(whole.flatten(1), (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        return Parts((nearest[:, ::2] << 4) | nearest[:, 1::2], scale.squeeze(-1))

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        """Level times scale."""
        is_whole = parts.codes.shape[1] * 2 % GROUP == 0
        return _by_library(parts, dtype) if is_whole and dtype.itemsize <= 4 else _by_table(parts, dtype)


def _by_library(parts: Parts, dtype: torch.dtype) -> Tensor:
    """One kernel does it all."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    state = QuantState(
        absmax=parts.scale.float().flatten(),
        shape=torch.Size((parts.codes.shape[0], parts.codes.shape[1] * 2)),
        code=torch.tensor(LEVELS, device=parts.codes.device),
        blocksize=GROUP,
        quant_type="nf4",
        dtype=dtype,
    )
    found: Tensor = dequantize_4bit(parts.codes.view(-1, 1), state)
    return found


def _by_table(parts: Parts, dtype: torch.dtype) -> Tensor:
    """The same in plain steps."""
    levels = torch.tensor(LEVELS, device=parts.codes.device, dtype=dtype)
    found = levels[torch.stack((parts.codes >> 4, parts.codes & 15), dim=-1).flatten(1).long()]
    grouped = torch.unflatten(found, -1, (parts.scale.shape[1], -1))
    return (grouped * parts.scale.to(dtype)[:, :, None]).flatten(1)


LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
