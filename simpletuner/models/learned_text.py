"""Text encoders that are trained too: what the rest of the project knows of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from simpletuner.models.family import Compute, Conditioning, TextSettings, Weights


@dataclass(frozen=True)
class TextPart:
    """One text encoder that stays loaded."""

    name: str
    """What of the model it is, as adapter files name it, such as text_encoder_2."""
    module: nn.Module
    """The encoder, frozen and without dropout of its own."""
    blocks: Sequence[nn.Module]
    """Its blocks in the order in which they run."""
    targets: tuple[str, ...]
    """Endings of the names of its layers that get an adapter."""
    encode: Callable[[Sequence[str]], Conditioning]
    """What the network is told of prompts by this encoder, stacked along a batch axis, with gradients."""


class OpenText(Protocol):
    """Opens text encoders for training."""

    def __call__(
        self, weights: Weights, settings: TextSettings, compute: Compute, *, wanted: Collection[str]
    ) -> Sequence[TextPart]:
        """Those encoders that are wanted, each by what of the model it is; on the CPU.

        Raises:
            ModelError: Weights are missing or wrong.
        """
