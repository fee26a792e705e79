"""Forms that multiply without unpacking: the input is packed too, row by row, at each product.

Only the forward product is shortened. The gradient of the input is computed with the unpacked weight, so that what
errors there are do not add up on the way back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from simpletuner.errors import ModelError
from simpletuner.models.precision.forms import Float8, Int8, Parts

_FEWEST = 32
"""Cards multiply whole numbers only in matrices of more than sixteen rows."""


@dataclass(frozen=True)
class Int8Product(Int8):
    """Whole numbers times whole numbers."""

    def multiply(self, input: Tensor, parts: Parts, bias: Tensor | None) -> Tensor:
        """The product of the packed input and the packed weight."""
        if not _divisible(parts, by=8):
            return super().multiply(input, parts, bias)
        codes, scale = Int8().encode(input.reshape(-1, input.shape[-1]).float(), torch.float32)[:2]
        product = torch._int_mm(_padded(codes), parts.codes.t())[: len(codes)]
        return _finished(product.float(), scale, parts, input, bias)


@dataclass(frozen=True)
class Float8Product(Float8):
    """Small floating point numbers times others."""

    def multiply(self, input: Tensor, parts: Parts, bias: Tensor | None) -> Tensor:
        """The product of the packed input and the packed weight."""
        if not _divisible(parts, by=16):
            return super().multiply(input, parts, bias)
        _check_card(input.device)
        codes, scale = Float8(self.kind).encode(input.reshape(-1, input.shape[-1]).float(), torch.float32)[:2]
        one = torch.ones((), device=input.device)
        product = torch._scaled_mm(
            _padded(codes).view(self.kind),
            parts.codes.view(self.kind).t(),
            scale_a=one,
            scale_b=one,
            out_dtype=torch.float32,
            use_fast_accum=True,
        )
        return _finished(product[: len(codes)], scale, parts, input, bias)


def _divisible(parts: Parts, *, by: int) -> bool:
    """Whether cards can multiply this weight as it is."""
    return all(length % by == 0 for length in parts.codes.shape)


def _padded(codes: Tensor) -> Tensor:
    """Enough rows for any card."""
    return functional.pad(codes, (0, 0, 0, max(_FEWEST - len(codes), 0)))


def _finished(product: Tensor, scale: Tensor, parts: Parts, input: Tensor, bias: Tensor | None) -> Tensor:
    """Both scales, the bias, and the shape and precision of the input."""
    found = (product * scale * parts.scale.float().t()).to(input.dtype)
    found = found if bias is None else found + bias
    return found.reshape(*input.shape[:-1], len(parts.codes))


def _check_card(device: torch.device) -> None:
    if torch.compiler.is_compiling() or device.type != "cuda" or torch.version.hip is not None:
        return
    if torch.cuda.get_device_capability(device) < (8, 9):
        raise ModelError(
            "the precision 'fp8-native' needs a card that multiplies 8-bit floating point numbers (RTX 40, "
            "L40, H100 or later). Use int8-matmul, which every card since RTX 20 can do, or fp8-quanto."
        )
