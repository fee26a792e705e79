"""Packed weights kept on disk, so that the next start reads a third of the bytes and packs nothing.

A folder is named for the weights and for how they were packed. It has one file for each block, and one for the rest.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import xxhash

from simpletuner.errors import ModelError
from simpletuner.models.sources import fingerprint
from simpletuner.models.streaming import Pieces, check, fill
from simpletuner.models.weight_files import Entry, contents

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from simpletuner.models.family import Compute, Weights
    from simpletuner.models.streaming import Pack

Network = TypeVar("Network", bound="nn.Module")

_REST = "rest"
_DONE = "complete"


def load(
    build: Callable[[], Network],
    blocks_of: Callable[[Network], Sequence[str]],
    pieces: Pieces,
    dtype: torch.dtype,
    *,
    pack: Pack | None = None,
    kept: Kept | None = None,
) -> Network:
    """A network with its weights, from what is kept or from where they come from.

    Args:
        build: Makes the network without weights.
        blocks_of: Names its blocks in the order in which they run.
        pieces: Where its weights are.
        dtype: The precision of what is not packed.
        pack: Changes one block in place; nothing is packed without it.
        kept: Where the packed network is kept.

    Raises:
        ModelError: The weights are not those of the network.
    """
    module = build()
    blocks = blocks_of(module)
    check(module, pieces)
    if kept is not None and kept.restore(module, blocks):
        return module
    module = build()
    fill(module, pieces, dtype, blocks=blocks, pack=pack)
    if kept is not None:
        kept.keep(module, blocks)
    return module


def unneeded(folder: Path, needed: Collection[Path]) -> list[Path]:
    """Networks kept in a folder that are none of those needed, and halves that nobody has gone on with for a day."""
    if not folder.is_dir():
        return []
    found = [path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name) and path not in needed]
    return [path for path in found if path.suffix != _UNFINISHED or path.stat().st_mtime < time.time() - _DAY]


_UNFINISHED = ".unfinished"
_NAME = re.compile(rf"[0-9a-f]{{32}}(?:\.\d+{re.escape(_UNFINISHED)})?")
_DAY = 24 * 3600


def recipe(weights: Weights, compute: Compute, packing: str) -> str:
    """Everything that decides the packed transformer; `packing` says how it is packed."""
    source = fingerprint(weights.transformer, weights.transformer_subfolder, weights.revision)
    return "/".join([source, str(weights.variant), str(compute.dtype), packing])


@dataclass(frozen=True)
class Kept:
    """One network in its packed form."""

    folder: Path
    """Where this and other networks are kept."""
    recipe: str
    """Everything that decides the packed weights: which weights, in which precision, packed how."""
    outline: Pack
    """Packs a block without weights, which gives it the right places for packed ones."""

    @property
    def place(self) -> Path:
        """The folder of this network."""
        return self.folder / xxhash.xxh3_128_hexdigest(self.recipe.encode())

    def restore(self, module: nn.Module, blocks: Sequence[str]) -> bool:
        """Give an empty network its packed weights; False when they are not kept, or not whole or right any more."""
        if not (self.place / _DONE).is_file():
            return False
        try:
            files = {name: contents(self.place / _file(name)) for name in ("", *blocks)}
        except ModelError:
            return False
        for block in blocks:
            self.outline(module.get_submodule(block))
        if not all(_fits(_places(module, name, blocks), found) for name, found in files.items()):
            return False
        for name, found in files.items():
            part = module.get_submodule(name)
            for tensor, entry in found.items():
                _put(part, tensor, entry.read())
        return True

    def keep(self, module: nn.Module, blocks: Sequence[str]) -> None:
        """Write a packed network; what is kept only saves time, so a full disk does not end the run."""
        from safetensors import SafetensorError

        # Several processes of one run may keep the same network at the same time.
        unfinished = self.place.with_name(f"{self.place.name}.{os.getpid()}{_UNFINISHED}")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            self._write(module, blocks, unfinished)
        except (OSError, SafetensorError) as error:
            logging.getLogger(__name__).warning("packed weights could not be kept in %s: %s", self.place, error)
            shutil.rmtree(unfinished, ignore_errors=True)

    def _write(self, module: nn.Module, blocks: Sequence[str], unfinished: Path) -> None:
        from safetensors.torch import save_file

        unfinished.mkdir(parents=True)
        for block in ("", *blocks):
            tensors = {name: one.detach().contiguous() for name, one in _places(module, block, blocks).items()}
            save_file(tensors, unfinished / _file(block))
        (unfinished / _DONE).touch()
        shutil.rmtree(self.place, ignore_errors=True)
        unfinished.rename(self.place)


def _file(block: str) -> str:
    return f"{block or _REST}.safetensors"


def _places(module: nn.Module, block: str, blocks: Sequence[str]) -> dict[str, Tensor]:
    """What a block holds, or all outside of blocks."""
    held: dict[str, Tensor] = module.get_submodule(block).state_dict()
    inside = tuple(f"{name}." for name in blocks) if not block else ()
    return {name: one for name, one in held.items() if not name.startswith(inside or ("\0",))}


def _fits(places: Mapping[str, Tensor], found: Mapping[str, Entry]) -> bool:
    return {name: tuple(one.shape) for name, one in places.items()} == {name: e.shape for name, e in found.items()}


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    from torch import nn

    parent, _, attribute = name.rpartition(".")
    owner = module.get_submodule(parent)
    if attribute in owner._parameters:
        owner.register_parameter(attribute, nn.Parameter(tensor, requires_grad=False))
    else:
        owner.register_buffer(attribute, tensor)
