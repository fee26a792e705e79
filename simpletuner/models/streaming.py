"""Weights go from disk into an empty network tensor by tensor; each block is packed as soon as it is complete.

So a network that is packed while it is loaded never exists whole in its unpacked form: what is in memory is what is
packed already, and one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError
from simpletuner.models.weight_files import Entry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Pack = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Piece:
    """One weight of a network: a tensor of a file, or some of its rows."""

    entry: Entry
    rows: slice | None = None
    swaps_halves: bool = False
    """Whether the two halves of the rows stand the other way round in the file."""
    scale: Entry | None = None
    """What the stored numbers are to be multiplied with: one number, or one for each row."""
    is_pointwise: bool = False
    """Whether the file has it as a convolution over one pixel, and the network as a linear layer."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what `read` gives."""
        shape = self.entry.shape
        if self.rows is not None:
            first, last, _ = self.rows.indices(shape[0])
            shape = (last - first, *shape[1:])
        return shape[:2] if self.is_pointwise else shape

    def read(self, dtype: torch.dtype) -> Tensor:
        """The weight."""
        import torch

        found = self.entry.read(self.rows)
        if self.scale is not None:
            found = found.float() * self._factor(found)
        if self.swaps_halves:
            found = torch.cat(found.chunk(2)[::-1])
        return found.reshape(self.shape).to(dtype)

    def _factor(self, weight: Tensor) -> Tensor:
        assert self.scale is not None
        factor = self.scale.read().float().reshape(-1)
        if len(factor) == 1:
            return factor
        return factor[self.rows or slice(None)].reshape(-1, *[1] * (weight.dim() - 1))


Pieces = Mapping[str, Piece]
"""Where the weights of a network are, by their name in it."""


def check(module: nn.Module, pieces: Pieces) -> None:
    """Compare names and shapes with an empty network, before any weight is read.

    Raises:
        ModelError: A weight is missing, of another shape, or unknown.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    if missing := [name for name in wanted if name not in pieces]:
        raise ModelError(
            f"{len(missing)} of {len(wanted)} weights are missing, {missing[0]} the first of them. Use complete "
            f"weights of the same model."
        )
    for name, shape in wanted.items():
        if pieces[name].shape != shape:
            raise ModelError(
                f"{name} has shape {pieces[name].shape} where {shape} is expected. Use weights that belong to the "
                f"config."
            )
    if unknown := sorted(pieces.keys() - module.state_dict().keys()):
        raise ModelError(
            f"there is no place for {len(unknown)} of its weights, {unknown[0]} the first of them. Use weights that "
            f"belong to the config."
        )


def fill(
    module: nn.Module, pieces: Pieces, dtype: torch.dtype, *, blocks: Sequence[str] = (), pack: Pack | None = None
) -> None:
    """Give an empty network its weights, frozen; block after block, each packed when it is complete.

    Args:
        module: A network whose parameters are on the meta device.
        pieces: Where its weights are; checked before.
        dtype: What they become.
        blocks: Names of the modules that are packed, in the order of loading.
        pack: Changes a complete block in place.
    """
    for block, names in _in_order(module, blocks):
        for name in names:
            _put(module, name, pieces[name].read(dtype))
        if block and pack is not None:
            pack(module.get_submodule(block))


def _in_order(module: nn.Module, blocks: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The weights outside of all blocks, and then those of each."""
    names: dict[str, list[str]] = {"": [], **{block: [] for block in blocks}}
    for name, _ in module.named_parameters():
        inside = [block for block in blocks if name.startswith(f"{block}.")]
        names[inside[0] if inside else ""].append(name)
    return iter(names.items())


def _put(module: nn.Module, name: str, weight: Tensor) -> None:
    from torch import nn

    parent, _, attribute = name.rpartition(".")
    module.get_submodule(parent).register_parameter(attribute, nn.Parameter(weight, requires_grad=False))
