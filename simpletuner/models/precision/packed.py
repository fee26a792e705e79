"""A frozen linear layer whose weight is packed, with gradients for what flows into it.

What it holds are ordinary tensors, so that saving, loading, copying, moving and swapping need nothing special. The
weight is unpacked for each product and dropped after it: nothing unpacked waits for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from simpletuner.models.precision.forms import Parts

if TYPE_CHECKING:
    from simpletuner.models.precision.forms import Form

_AT_ONCE = 1 << 20
"""How many weights are packed at once: packing needs little memory beside the weights themselves."""


class PackedLinear(nn.Linear):
    """A linear layer that keeps its weight in a smaller form."""

    codes: Tensor
    scale: Tensor
    shift: Tensor | None

    def __init__(self, form: Form, parts: Parts, bias: nn.Parameter | None, in_features: int) -> None:
        """Take over packed parts.

        Args:
            form: How the weight is kept.
            parts: The packed weight.
            bias: Added to the product; it is not packed.
            in_features: The columns of the weight.
        """
        nn.Module.__init__(self)  # not that of nn.Linear, which would make a weight
        self.form = form
        self.in_features = in_features
        self.out_features = parts.codes.shape[0]
        self.register_buffer("codes", parts.codes)
        self.register_buffer("scale", parts.scale)
        self.register_buffer("shift", parts.shift)
        self.register_parameter("bias", bias)

    @classmethod
    def of(cls, layer: nn.Linear, form: Form, device: torch.device | None = None) -> PackedLinear:
        """Pack a layer; with a device, the work is done there."""
        return cls(form, _encoded(layer.weight.detach(), form, device), layer.bias, layer.in_features)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # unpacked at each look
        """The weight as it acts, with shape (out, in); a change of this copy changes nothing."""
        return self.form.decode(self._parts, self.scale.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """The product of inputs with shape (..., in) and the weight, plus the bias."""
        apply: Callable[..., Tensor] = _Product.apply
        return apply(input.to(_arithmetic(input)), self.bias, *self._parts, self.form)

    @property
    def _parts(self) -> Parts:
        return Parts(self.codes, self.scale, self.shift)


def _encoded(weight: Tensor, form: Form, device: torch.device | None) -> Parts:
    """The parts of a whole weight, made a few rows at a time."""
    rows = len(weight) if weight.is_meta else max(_AT_ONCE // weight.shape[1], 1)
    pieces = [_piece(some, form, device) for some in torch.split(weight, rows)]
    codes, scale, shift = zip(*pieces, strict=True)
    return Parts(torch.cat(codes), torch.cat(scale), None if shift[0] is None else torch.cat(shift))


def _piece(rows: Tensor, form: Form, device: torch.device | None) -> Parts:
    """The parts of some rows, where the rows are."""
    packed = form.encode(rows.to(device or rows.device, torch.float32), rows.dtype)
    codes, scale, shift = (None if part is None else part.to(rows.device) for part in packed)
    assert codes is not None and scale is not None
    return Parts(codes, scale, shift)


def _arithmetic(input: Tensor) -> torch.dtype:
    """The precision in which a product is computed."""
    kind = input.device.type
    is_mixed = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_mixed else input.dtype


class _Product(torch.autograd.Function):
    """A product that unpacks its weight twice and does not keep it in between."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, bias: Tensor | None, *packed: Any) -> Tensor:
        """Any: torch's context has no type, and the parts travel as separate arguments."""
        codes, scale, shift, form = packed
        # Not save_for_backward: what offloads saved activations would carry weights about.
        ctx.parts, ctx.form = Parts(codes, scale, shift), form
        found: Tensor = form.multiply(input, ctx.parts, None if bias is None else bias.to(input.dtype))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the input and of the bias; the weight is frozen."""
        (gradient,) = gradients
        to_input = gradient @ ctx.form.decode(ctx.parts, gradient.dtype) if ctx.needs_input_grad[0] else None
        to_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if ctx.needs_input_grad[1] else None
        return to_input, to_bias, None, None, None, None
