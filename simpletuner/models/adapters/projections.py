"""The two matrices of a LoRA where PEFT's own are not enough: dropout between them, and a start that is not zero.

An adapter that starts from the weights of the base (PiSSA and its like) needs these weights taken out of the base.
Here the base stays as it is, and the adapter carries the matrices it started from, frozen: it adds B A - B0 A0. That is
the same training, and it can be switched off exactly, works on a packed base too, and is a plain LoRA of twice the rank
in a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.adapters.dropout import Dropout


class Down(nn.Linear):
    """The first matrix; with a start, its output is followed by that of the matrix it started from."""

    start: Tensor | None

    def __init__(self, plain: nn.Linear, dropout: Dropout, start: Tensor | None) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight = plain.weight
        self.dropout = dropout
        self.register_buffer("start", start, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Numbers with shape (..., in) to (..., rank), or twice the rank with a start."""
        inner = functional.linear(input, self.weight)
        mask = self.dropout.mask(inner) if self.training and self.dropout.is_between else None
        inner = inner if mask is None else inner * mask
        if self.start is None:
            return inner
        first = functional.linear(input, self.start)
        return torch.cat([inner, first if mask is None else first * mask], dim=-1)


class Up(nn.Linear):
    """The second matrix, for the output of a `Down` with a start."""

    start: Tensor

    def __init__(self, plain: nn.Linear, start: Tensor) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight = plain.weight
        self.register_buffer("start", start, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Numbers with shape (..., twice the rank) to (..., out)."""
        inner, first = input.chunk(2, dim=-1)
        return functional.linear(inner, self.weight) - functional.linear(first, self.start)
