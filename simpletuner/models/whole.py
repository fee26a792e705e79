"""All weights of a network as what is trained: a folder in diffusers layout, in checkpoints and as the result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.errors import CheckpointError, ModelError, TrainingError
from simpletuner.models import shards
from simpletuner.models.trained import Group
from simpletuner.models.weight_files import Contents, folder_contents
from simpletuner.storage.local import cannot_write, write_folder

if TYPE_CHECKING:
    import torch
    from diffusers import ModelMixin
    from torch import Tensor

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model"


@dataclass(eq=False)
class Whole:
    """A network of diffusers whose own weights are trained."""

    module: ModelMixin
    name: str = "transformer"
    """The folder that it is written to, inside a checkpoint or the output folder."""
    dtype: torch.dtype | None = None
    """The precision of the result; that of training unless given. Checkpoints hold what is trained, exactly."""
    limit: int = shards.LIMIT
    """How many bytes one file holds at most."""
    is_base: bool = field(default=True, init=False)
    """Whether the weights are still those that training began with."""

    def groups(self) -> Sequence[Group]:
        """Every weight that takes gradients."""
        return [Group({name: one for name, one in self.module.named_parameters() if one.requires_grad})]

    def save(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Write config and weights as they are into a folder of their own inside this one."""
        (folder / self.name).mkdir()
        self._write(folder / self.name, metadata, None)

    def restore(self, folder: Path) -> None:
        """Put saved weights back, one tensor at a time."""
        import torch

        found = self._saved(folder / self.name)
        self.is_base = False
        with torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(found[name].read())

    def publish(self, folder: Path, metadata: Mapping[str, str]) -> Path:
        """Write the folder that `from_pretrained` of diffusers loads."""
        place = folder / self.name
        try:
            write_folder(place, lambda partial: self._write(partial, metadata, self.dtype))
        except OSError as error:
            raise cannot_write(place, error) from error
        return place

    @contextmanager
    def without(self) -> Iterator[None]:
        """A moment with the base model, which is there only until the first step.

        Raises:
            TrainingError: The weights were changed already.
        """
        if not self.is_base:
            raise TrainingError(
                "the base model was asked for after its weights were trained, and no copy of it is kept. Use "
                "model_type lora, or leave out what compares with the base."
            )
        yield

    def at(self, strength: float) -> AbstractContextManager[None]:
        """A moment as it is; the check of a config refuses other strengths, as no copy of the base is kept."""
        assert strength == 1, "whole weights have no strength"
        return nullcontext()

    def after_step(self) -> Mapping[str, float]:
        """Remember that the base is gone."""
        self.is_base = False
        return {}

    def _write(self, folder: Path, metadata: Mapping[str, str], dtype: torch.dtype | None) -> None:
        config = json.loads(self.module.to_json_string())
        config.pop("_name_or_path", None)  # the folder that the base was loaded from is nobody's business
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        shards.write(folder, WEIGHTS, self._state(), metadata, dtype=dtype, limit=self.limit)

    def _state(self) -> dict[str, Tensor]:
        """Every weight by its name; what is returned are the tensors themselves."""
        return {name: tensor.detach() for name, tensor in self.module.state_dict().items()}

    def _saved(self, folder: Path) -> Contents:
        """What a checkpoint holds, compared with the network before anything is read.

        Raises:
            CheckpointError: It is of another network, or was trained in another precision.
        """
        try:
            found = folder_contents(folder)
        except ModelError as error:
            raise CheckpointError(f"'{folder.parent}' cannot be resumed: {error}") from error
        own = self._state()
        if own.keys() != found.keys():
            odd = sorted(own.keys() ^ found.keys())[0]
            raise CheckpointError(_other(folder, f"'{odd}' is in only one of them"))
        for name, tensor in own.items():
            kept, wanted = (found[name].kind, found[name].shape), (shards.kind_of(tensor), tuple(tensor.shape))
            if kept != wanted:
                raise CheckpointError(_other(folder, f"'{name}' is {_words(*kept)} there, and {_words(*wanted)} here"))
        return found


def _words(kind: str, shape: tuple[int, ...]) -> str:
    return f"{kind} with shape {shape}"


def _other(folder: Path, how: str) -> str:
    return (
        f"'{folder}' holds other weights than this run trains: {how}. Use the model, the optimizer and the "
        f"mixed_precision of the saved run, or start anew with resume_from_checkpoint set to none."
    )
