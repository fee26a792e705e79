"""The forms that a weight is packed into: how it is written as codes with scales, and how it is read back.

Scales are kept in the precision of the weight, and codes are chosen for the scale as it was rounded, so that rounding
a scale shifts nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

GROUP = 64
"""How many weights of a row share one scale in the forms of four bits and fewer."""


class Parts(NamedTuple):
    """A packed weight: whole numbers, and what turns them back; the first axis of each is the rows of the weight."""

    codes: Tensor
    scale: Tensor
    shift: Tensor | None = None


class Form(Protocol):
    """How a weight is kept."""

    def fits(self, out_features: int, in_features: int) -> bool:
        """Whether a weight of this shape can be kept so."""

    def encode(self, weight: Tensor, dtype: torch.dtype) -> Parts:
        """Pack rows with shape (rows, in), float32; `dtype` is the precision of the scales."""

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        """Unpack to shape (rows, in)."""

    def multiply(self, input: Tensor, parts: Parts, bias: Tensor | None) -> Tensor:
        """The product of inputs with shape (..., in) and the weight, plus the bias."""


class WeightOnly:
    """A form that multiplies with the weight as it was unpacked."""

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        """Unpack to shape (rows, in)."""
        raise NotImplementedError

    def multiply(self, input: Tensor, parts: Parts, bias: Tensor | None) -> Tensor:
        """The product in the precision of the input."""
        return functional.linear(input, self.decode(parts, input.dtype), bias)


@dataclass(frozen=True)
class Int8(WeightOnly):
    """Whole numbers from -127 to 127, with one scale for each row."""

    def fits(self, out_features: int, in_features: int) -> bool:
        """Every shape does."""
        return True

    def encode(self, weight: Tensor, dtype: torch.dtype) -> Parts:
        """The largest weight of a row becomes 127."""
        scale = _scale(weight, 127.0, dtype)
        return Parts((weight / scale.float()).round().clamp(-127, 127).to(torch.int8), scale)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        """Number times scale."""
        return parts.codes.to(dtype) * parts.scale.to(dtype)


@dataclass(frozen=True)
class Float8(WeightOnly):
    """Small floating point numbers, with one scale for each row."""

    kind: torch.dtype = torch.float8_e4m3fn

    def fits(self, out_features: int, in_features: int) -> bool:
        """Every shape does."""
        return True

    def encode(self, weight: Tensor, dtype: torch.dtype) -> Parts:
        """The largest weight of a row becomes the largest number."""
        largest = torch.finfo(self.kind).max
        scale = _scale(weight, largest, dtype)
        small = (weight / scale.float()).clamp(-largest, largest).to(self.kind)
        # As bytes: a network that is moved to another precision would convert floating point codes.
        return Parts(small.view(torch.uint8), scale)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        """Number times scale."""
        return parts.codes.view(self.kind).to(dtype) * parts.scale.to(dtype)


def _scale(weight: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
    """One scale for each row, never zero."""
    found = (weight.abs().amax(dim=-1, keepdim=True) / largest).to(dtype)
    return torch.where(found > 0, found, torch.ones_like(found))


@dataclass(frozen=True)
class Grouped(WeightOnly):
    """Evenly spaced levels with scale and shift of their own for each group of a row, fitted by least squares."""

    bits: int

    def fits(self, out_features: int, in_features: int) -> bool:
        """A group must fill whole bytes."""
        return group_of(in_features) % (8 // self.bits) == 0

    def encode(self, weight: Tensor, dtype: torch.dtype) -> Parts:
        """Choose levels, then fit the line through them, in turn: the squared error never grows."""
        grouped = torch.unflatten(weight, -1, (-1, group_of(weight.shape[-1])))
        scale, shift = self._start(grouped)
        for _ in range(0 if weight.is_meta else _ROUNDS):
            scale, shift = _line(self._levels(grouped, scale, shift), grouped)
        scale, shift = scale.to(dtype), shift.to(dtype)
        return Parts(_packed(self._levels(grouped, scale.float(), shift.float()), self.bits), scale, shift)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        """Level times scale, plus shift."""
        assert parts.shift is not None
        levels = _unpacked(parts.codes, self.bits).to(dtype)
        return torch.addcmul(parts.shift.to(dtype), levels, parts.scale.to(dtype)).flatten(1)

    def _start(self, grouped: Tensor) -> tuple[Tensor, Tensor]:
        """Levels around the middle, as wide as suits numbers from a bell curve."""
        middle, spread = grouped.mean(-1, keepdim=True), grouped.std(-1, keepdim=True, correction=0)
        half = torch.minimum((grouped - middle).abs().amax(-1, keepdim=True), spread * _WIDTHS[self.bits])
        scale = half * 2 / self._highest
        return torch.where(scale > 0, scale, torch.ones_like(scale)), middle - half

    def _levels(self, grouped: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """The nearest level of every weight."""
        return ((grouped - shift) / scale).round().clamp(0, self._highest)

    @property
    def _highest(self) -> int:
        return (1 << self.bits) - 1


_ROUNDS = 4
_WIDTHS = {2: 1.494, 4: 2.514}
"""Half the best width of evenly spaced levels for a normal distribution, in standard deviations (Max 1960)."""


def _line(levels: Tensor, grouped: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift with the smallest squared error for these levels."""
    middle, wanted = levels.mean(-1, keepdim=True), grouped.mean(-1, keepdim=True)
    spread = (levels - middle).square().sum(-1, keepdim=True)
    slope = ((levels - middle) * (grouped - wanted)).sum(-1, keepdim=True) / spread
    slope = torch.where(spread > 0, slope, torch.ones_like(slope))
    return slope, wanted - slope * middle


def group_of(in_features: int) -> int:
    """How many weights of a row share a scale: 64, or what divides the row."""
    return math.gcd(in_features, GROUP)


def _packed(levels: Tensor, bits: int) -> Tensor:
    """Several levels in a byte: the first part of the last axis in the lowest bits, and so on."""
    found = torch.zeros_like(levels.chunk(8 // bits, dim=-1)[0], dtype=torch.uint8)
    for place, part in enumerate(levels.to(torch.uint8).chunk(8 // bits, dim=-1)):
        found |= part << (place * bits)
    return found


def _unpacked(codes: Tensor, bits: int) -> Tensor:
    """The inverse of `_packed`."""
    return torch.cat([(codes >> place) & ((1 << bits) - 1) for place in range(0, 8, bits)], dim=-1)
