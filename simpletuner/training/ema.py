"""A running average of the trained weights, kept in float32: it follows them after every step, smoother than they are.

The average wraps whatever is trained, so that it is saved, restored and published together with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.errors import CheckpointError
from simpletuner.models import shards
from simpletuner.models.trained import Group, Trained
from simpletuner.models.weight_files import Contents, contents
from simpletuner.training import checkpoint
from simpletuner.training.looks import Look

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FILE = "ema.safetensors"
FOLDER = "ema"


@dataclass(frozen=True)
class Following:
    """How an average follows the weights."""

    most: float
    """How much of itself the average keeps in a step at most."""
    interval: int = 1
    """It follows after every so many steps."""
    warmup_steps: int = 0
    """Up to this step it equals the weights, and from then on it keeps `most`; 0 lets it grow slower by itself."""

    def kept(self, step: int) -> float:
        """How much of itself the average keeps in a step, which is counted from 1."""
        if self.warmup_steps:
            return 0.0 if step <= self.warmup_steps else self.most
        before = step - 1
        return min(self.most, (1 + before) / (10 + before)) if before > 0 else 0.0


class Average:
    """The average itself, by the names of the weights, and the step that it has seen last."""

    def __init__(self, weights: Mapping[str, nn.Parameter], device: torch.device, *, works_there: bool) -> None:
        """Begin with the weights as they are.

        Args:
            weights: What is followed.
            device: Where the average is kept.
            works_there: Whether it is also computed there, instead of where the weights are.
        """
        self.weights = dict(weights)
        self.step = 0
        self._device = device
        self._works_there = works_there
        self._values = {name: self._copied(weight) for name, weight in self.weights.items()}

    def follow(self, kept: float) -> None:
        """Move towards the weights."""
        import torch

        with torch.no_grad():
            for name, weight in self.weights.items():
                place = self._device if self._works_there else weight.device
                value = self._values[name].to(place)
                self._values[name] = value.lerp_(weight.detach().to(place).float(), 1 - kept).to(self._device)

    def begin(self, step: int) -> None:
        """Begin anew with the weights as they are after a step."""
        self.step = step
        self._values = {name: self._copied(weight) for name, weight in self.weights.items()}

    def take(self, saved: Contents, step: int) -> None:
        """Go on from what was saved after a step."""
        self.step = step
        self._values = {name: saved[name].read().to(self._device) for name in self.weights}

    def values(self) -> Mapping[str, Tensor]:
        """The averages by the names of the weights."""
        return self._values

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the ``with``, the network works with the average; afterwards the weights are bit for bit back."""
        import torch

        own = {name: weight.detach().to(self._device, copy=True) for name, weight in self.weights.items()}
        try:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(self._values[name])
            yield
        finally:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(own[name])

    def _copied(self, weight: nn.Parameter) -> Tensor:
        return weight.detach().to(self._device, copy=True).float()


def looks(found: Sequence[Look], trained: Trained, view: str) -> Sequence[Look]:
    """The ways in which a run draws its prompts, with the average among them or instead of the weights themselves."""
    if not isinstance(trained, Averaged) or view == "none":
        return found
    average = Look(FOLDER, trained.average.in_place)
    own = [look for look in found if not look.slug]
    others = [look for look in found if look.slug]
    return [*(own if view == "comparison" else ()), average, *others]


@dataclass(frozen=True)
class Averaged:
    """Something that is trained, together with its average."""

    inner: Trained
    average: Average
    following: Following
    is_small: bool = True
    """Whether checkpoints too hold the average in the format of other programs, besides what they go on from."""

    def groups(self) -> Sequence[Group]:
        """What is trained; the average is not."""
        return self.inner.groups()

    def save(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Write the weights and the average into the folder of a checkpoint."""
        self.inner.save(folder, metadata)
        shards.write_file(folder / FILE, self.average.values(), {})
        if self.is_small:
            self._publish(folder, metadata)

    def restore(self, folder: Path) -> None:
        """Put weights and average back; a checkpoint without an average begins one."""
        self.inner.restore(folder)
        step = checkpoint.step_of(folder)
        if (folder / FILE).is_file():
            self.average.take(self._saved(folder), step)
        else:
            self.average.begin(step)

    def publish(self, folder: Path, metadata: Mapping[str, str]) -> Path:
        """Write the weights for other programs, and the average beside them."""
        path = self.inner.publish(folder, metadata)
        self._publish(folder, metadata)
        return path

    def without(self) -> AbstractContextManager[None]:
        """The base model, which knows no average."""
        return self.inner.without()

    def at(self, strength: float) -> AbstractContextManager[None]:
        """The strength of the weights that are in place, be they the average or not."""
        return self.inner.at(strength)

    def after_step(self) -> Mapping[str, float]:
        """Let the average follow the weights."""
        reported = self.inner.after_step()
        self.average.step += 1
        if self.average.step % self.following.interval:
            return reported
        kept = self.following.kept(self.average.step)
        self.average.follow(kept)
        return {**reported, "ema_decay_value": kept}

    def _publish(self, folder: Path, metadata: Mapping[str, str]) -> None:
        with self.average.in_place():
            self.inner.publish(folder / FOLDER, metadata)

    def _saved(self, folder: Path) -> Contents:
        found = contents(folder / FILE)
        ours = {name: tuple(weight.shape) for name, weight in self.average.weights.items()}
        if {name: entry.shape for name, entry in found.items()} != ours:
            raise CheckpointError(
                f"'{folder}' has an average (EMA) of other weights than this run trains. Set the options of the "
                f"adapter back, or resume_from_checkpoint to none."
            )
        return found
