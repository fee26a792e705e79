"""What the rest of the project may know of an adapter: its weights, its files, and that it can be switched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FILE_NAME = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Group:
    """Trained weights that share a learning rate."""

    parameters: Mapping[str, nn.Parameter]
    """By name, in a fixed order."""
    learning_rate: float | None = None
    """The peak of their own, or None for that of the run."""
    multiplier: float = 1.0
    """What the learning rate is multiplied by besides."""

    def factor(self, learning_rate: float) -> float:
        """The share of the run's learning rate that these weights have, at every step."""
        own = learning_rate if self.learning_rate is None else self.learning_rate
        return self.multiplier * own / learning_rate


class Adapter(Protocol):
    """Small trainable weights beside a frozen network, attached to it."""

    def groups(self) -> Sequence[Group]:
        """Everything that is trained, each weight in one group."""

    def state(self) -> Mapping[str, Tensor]:
        """The weights from which `load` goes on exactly."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put weights back that `state` gave in a run with the same options.

        Raises:
            CheckpointError: They are of another adapter.
        """

    def encode(self, metadata: Mapping[str, str]) -> bytes:
        """The file of a checkpoint: `state`, with everything in its header that a loader needs."""

    def decode(self, data: bytes) -> Mapping[str, Tensor]:
        """The state in a checkpoint's file."""

    def publish(self, metadata: Mapping[str, str]) -> bytes:
        """The file for other programs, which may not read the header."""

    def without(self) -> AbstractContextManager[None]:
        """A moment in which the network is exactly the base model."""

    def after_step(self) -> Mapping[str, float]:
        """What is to be done when the weights were updated; returns numbers to report."""


class AdapterPlan(Protocol):
    """What an adapter looks like before it exists."""

    def attach(self, module: nn.Module, dtype: torch.dtype, seed: int) -> Adapter:
        """Put the adapter on a frozen network.

        Args:
            module: The network, packed already if it is to be packed.
            dtype: Precision of the trained weights.
            seed: Fixes the random part of the start values.

        Raises:
            ModelError: The network has no such layers, or a file that the adapter starts from does not fit.
        """


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name, in a fixed order."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def parameters_of(adapter: Adapter) -> dict[str, nn.Parameter]:
    """Everything that an adapter trains, by name."""
    return {name: one for group in adapter.groups() for name, one in group.parameters.items()}
