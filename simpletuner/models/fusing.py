"""Query, key and value of attention as one matrix product, each still a layer of its own that an adapter can train.

diffusers replaces the three layers by one, so that adapters miss them. Here the three stay, and the first that is
asked computes for all: names, adapters and saved files are the same as without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

TRIOS = {
    "joined_projections": ("to_q", "to_k", "to_v"),
    "joined_added_projections": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""The layers that take the same input, and the name of the layer that computes all three."""


def fuse(module: nn.Module) -> None:
    """Join the projections of every attention in place.

    Call it on plain weights, before an adapter is attached.
    """
    for attention in list(module.modules()):
        for name, trio in TRIOS.items():
            layers = [attention._modules.get(one) for one in trio]
            plain = [layer for layer in layers if type(layer) is nn.Linear]
            if len(plain) == len(trio):
                _join(attention, name, trio, plain)


class Joined(nn.Linear):
    """Several layers of the same input as one; what it computed waits until each part has been taken."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Join the weights; the given layers can be dropped afterwards."""
        import torch

        nn.Module.__init__(self)
        self.sizes = [layer.out_features for layer in layers]
        self.in_features, self.out_features = layers[0].in_features, sum(self.sizes)
        self.weight = nn.Parameter(torch.cat([layer.weight.data for layer in layers]), requires_grad=False)
        biases = [layer.bias.data for layer in layers if layer.bias is not None]
        self.register_parameter("bias", nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None)
        self._asked: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def part(self, number: int, given: Tensor) -> Tensor:
        """What layer `number` says to an input; all say it together, to the first that asks."""
        if self._asked is not given or number not in self._waiting:
            self._asked = given
            self._waiting = dict(enumerate(self(given).split(self.sizes, dim=-1)))
        answer = self._waiting.pop(number)
        if not self._waiting:
            self._asked = None
        return answer


class Part(nn.Linear):
    """One of the joined layers: its weight is a view of their common weight, so it takes no memory."""

    def __init__(self, joined: Joined, number: int) -> None:
        """Stand for layer `number` of `joined`."""
        nn.Module.__init__(self)
        # In a list, so that it is not a module inside this one: it belongs to the attention.
        self._joined = [joined]
        self._number = number
        self.in_features, self.out_features = joined.in_features, joined.sizes[number]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # a view, where a plain layer has a parameter
        """The rows of the common weight that are this layer's."""
        return self._rows(self._joined[0].weight)

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]  # the same
        """The part of the common bias that is this layer's."""
        bias = self._joined[0].bias
        return None if bias is None else self._rows(bias)

    def forward(self, input: Tensor) -> Tensor:
        """What the layer would say by itself."""
        return self._joined[0].part(self._number, input)

    def _rows(self, tensor: Tensor) -> Tensor:
        start = sum(self._joined[0].sizes[: self._number])
        return tensor[start : start + self.out_features]


def _join(attention: nn.Module, name: str, trio: Sequence[str], layers: Sequence[nn.Linear]) -> None:
    joined = Joined(layers)
    for part, replaced in zip(_parts(joined), trio, strict=True):
        attention.register_module(replaced, part)
    attention.register_module(name, joined)


def _parts(joined: Joined) -> Iterator[Part]:
    yield from (Part(joined, number) for number in range(len(joined.sizes)))
