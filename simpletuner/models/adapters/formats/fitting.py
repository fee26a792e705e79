"""Whether an adapter file fits the model it shall be used with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats.neutral import LowRank

if TYPE_CHECKING:
    from torch import nn


def shapes(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every linear layer of a network, by name, quantised or not."""
    from torch import nn

    return {
        name: (one.out_features, one.in_features) for name, one in module.named_modules() if isinstance(one, nn.Linear)
    }


def check_fit(layers: Mapping[str, LowRank], known: Mapping[str, tuple[int, int]], file: str) -> None:
    """Raise a ModelError unless every layer of an adapter is one of the network with the same shape.

    Args:
        layers: One part of an adapter, as `Lora.of` gives it.
        known: The shapes of the network's layers.
        file: What the user wrote, for the message.
    """
    for name, layer in layers.items():
        shape = (layer.up.shape[0], layer.down.shape[1])
        if name not in known:
            raise ModelError(f"{_refused(file)}: the model has no layer '{name}'. {_ADVICE}")
        if known[name] != shape:
            raise ModelError(
                f"{_refused(file)}: '{name}' has {_words(known[name])} in the model and {_words(shape)} in the "
                f"adapter. {_ADVICE}"
            )


def _refused(file: str) -> str:
    return f"the adapter '{file}' does not fit the model"


def _words(shape: tuple[int, int]) -> str:
    return f"{shape[1]} inputs and {shape[0]} outputs"


_ADVICE = "Use an adapter that was made for this model."
