"""What training changes, whatever it is: the weights of an adapter, of a whole network, or of several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


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


class Trained(Protocol):
    """Weights that training changes, and how they are kept."""

    def groups(self) -> Sequence[Group]:
        """Everything that is trained, each weight in one group."""

    def save(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Write into the folder of a checkpoint what `restore` goes on from exactly, by any loader's names."""

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote in a run with the same options.

        Raises:
            CheckpointError: The weights are not there, or are of another shape.
        """

    def publish(self, folder: Path, metadata: Mapping[str, str]) -> Path:
        """Write for other programs into a folder, whole files only; returns the path that they are told."""

    def without(self) -> AbstractContextManager[None]:
        """A moment in which the network is exactly the base model."""

    def at(self, strength: float) -> AbstractContextManager[None]:
        """A moment in which what was trained acts so strongly: 0 is exactly the base, 1 exactly as it is trained.

        Whole weights have no strength but 1.
        """

    def after_step(self) -> Mapping[str, float]:
        """What is to be done when the weights were updated; returns numbers to report."""


class Grouped(Protocol):
    """Whatever has weights that are trained."""

    def groups(self) -> Sequence[Group]:
        """Everything that is trained, each weight in one group."""


def parameters_of(trained: Grouped) -> dict[str, nn.Parameter]:
    """Everything that is trained, by name."""
    return {name: one for group in trained.groups() for name, one in group.parameters.items()}
