"""What the rest of the project may know of an adapter: its weights, its files, and that it can be switched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from simpletuner.errors import CheckpointError
from simpletuner.models.trained import Group
from simpletuner.storage.local import LocalStore, write_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FILE_NAME = "pytorch_lora_weights.safetensors"
EXACT = "adapter_state.safetensors"
"""What a checkpoint goes on from, where the file for other programs does not hold the same numbers."""


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

    def scaled(self, factor: float) -> AbstractContextManager[None]:
        """A moment in which what the adapter adds is multiplied, as `set_adapters` of diffusers does it."""

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


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as something that is trained: a file for other programs, and in checkpoints the exact state."""

    adapter: Adapter

    def groups(self) -> Sequence[Group]:
        """The groups of the adapter."""
        return self.adapter.groups()

    def save(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Write the file for other programs, and beside it the exact state where that file does not hold it."""
        shown, exact = self.adapter.publish(metadata), self.adapter.encode(metadata)
        write_whole(folder / FILE_NAME, shown)
        if not _hold_the_same(shown, exact):
            write_whole(folder / EXACT, exact)

    def restore(self, folder: Path) -> None:
        """Put the weights of a checkpoint back."""
        name = EXACT if (folder / EXACT).is_file() else FILE_NAME
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"'{folder}' cannot be resumed: {name} cannot be read ({error}).") from error
        self.adapter.load(self.adapter.decode(data))

    def publish(self, folder: Path, metadata: Mapping[str, str]) -> Path:
        """Write the file that other programs read."""
        LocalStore(folder).write(FILE_NAME, self.adapter.publish(metadata))
        return folder / FILE_NAME

    def without(self) -> AbstractContextManager[None]:
        """Switch the adapter off."""
        return self.adapter.without()

    def at(self, strength: float) -> AbstractContextManager[None]:
        """Multiply what the adapter adds; with factor 0, some kinds (DoRA, OFT) would still not be the base."""
        if strength == 1:
            return nullcontext()
        return self.adapter.scaled(strength) if strength else self.adapter.without()

    def after_step(self) -> Mapping[str, float]:
        """What the adapter does after an update."""
        return self.adapter.after_step()


def _hold_the_same(first: bytes, second: bytes) -> bool:
    """Whether two files have the same tensors under the same names."""
    import torch
    from safetensors.torch import load

    one, other = load(first), load(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
