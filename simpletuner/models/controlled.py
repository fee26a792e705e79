"""All weights of a ControlNet as what is trained: the model beside it stays as it is, and can be asked alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.models.trained import Group

if TYPE_CHECKING:
    from simpletuner.models.family import Controlled
    from simpletuner.models.whole import Whole


@dataclass(frozen=True)
class ControlWeights:
    """Kept as all weights of a network are; the base is what is left when nothing is heard of the ControlNet."""

    weights: Whole
    denoiser: Controlled

    def groups(self) -> Sequence[Group]:
        """Every weight of the ControlNet."""
        return self.weights.groups()

    def save(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Write the folder of the ControlNet into that of a checkpoint."""
        self.weights.save(folder, metadata)

    def restore(self, folder: Path) -> None:
        """Put saved weights back."""
        self.weights.restore(folder)

    def publish(self, folder: Path, metadata: Mapping[str, str]) -> Path:
        """Write the folder that `FluxControlNetModel.from_pretrained` of diffusers loads."""
        return self.weights.publish(folder, metadata)

    def without(self) -> AbstractContextManager[None]:
        """A moment with the model alone."""
        return self.denoiser.uncontrolled()

    def at(self, strength: float) -> AbstractContextManager[None]:
        """A moment as it is: whole weights have no strength."""
        return self.weights.at(strength)

    def after_step(self) -> Mapping[str, float]:
        """What is to be done with whole weights after an update."""
        return self.weights.after_step()
