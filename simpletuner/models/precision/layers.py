"""Which layers are packed, decided by module and not by patterns that a library might read in its own way.

The linear layers inside the blocks are packed, the modulation layers among them: they hold more than a quarter of all
weights of FLUX.1. Everything else (embedders, the last norm, the projection out) is small and sensitive, so it stays in
the compute precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from simpletuner.models.precision.forms import Form


def packable(module: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers inside the blocks that are not packed yet, with their names in `module`."""
    from torch import nn

    inside = {id(part) for block in blocks for part in block.modules()}
    for name, layer in module.named_modules():
        # Not isinstance: a packed layer is a linear one too.
        if type(layer) is nn.Linear and id(layer) in inside:
            yield name, layer


def pack(module: nn.Module, blocks: Sequence[nn.Module], form: Form, device: torch.device | None) -> None:
    """Put a packed layer in the place of every linear one that the form fits.

    Args:
        module: A network, or one block of it; it is changed in place, layer by layer.
        blocks: Where to look for layers.
        form: How weights are kept.
        device: Where the work is done, unless where the weights are; they come back to where they were.
    """
    from simpletuner.models.precision.packed import PackedLinear

    for name, layer in list(packable(module, blocks)):
        if form.fits(layer.out_features, layer.in_features):
            parent, _, attribute = name.rpartition(".")
            module.get_submodule(parent).register_module(attribute, PackedLinear.of(layer, form, device))
