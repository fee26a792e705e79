"""Adapters that become part of the base before training begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.models.adapters.formats.files import find, read_adapter, read_tensors
from simpletuner.models.adapters.formats.fitting import check_fit, shapes
from simpletuner.models.adapters.formats.neutral import TRANSFORMER, LowRank
from simpletuner.models.adapters.lycoris_merging import is_lycoris, merge_file

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class BaseAdapter:
    """An adapter file that is merged into the base."""

    path: str
    strength: float = 1.0


def merge(module: nn.Module, adapters: Sequence[BaseAdapter]) -> None:
    """Add adapters to the weights of a network that is not packed yet, one after the other.

    Raises:
        ModelError: A file cannot be read, or is of another network.
    """
    for adapter in adapters:
        _merge(module, adapter)


def _merge(module: nn.Module, adapter: BaseAdapter) -> None:
    import torch

    tensors, _ = read_tensors(find(Path(adapter.path).expanduser()))
    if is_lycoris(tensors):
        merge_file(module, tensors, adapter.path, adapter.strength)
        return
    read = read_adapter(adapter.path)
    layers = read.of(TRANSFORMER)
    if len(read.layers) > len(layers):
        _LOG.warning("base_adapters: what '%s' has besides the %s is left out", adapter.path, TRANSFORMER)
    check_fit(layers, shapes(module), adapter.path)
    with torch.no_grad():
        for name, layer in layers.items():
            weight = module.get_parameter(f"{name}.weight")
            weight.copy_(merged(weight, layer, adapter.strength))


def merged(weight: Tensor, layer: LowRank, strength: float) -> Tensor:
    """The weights with an adapter in them, in float32 or better."""
    import torch

    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    changed: Tensor = wide + layer.delta().to(wide) * (1.0 if layer.magnitude is not None else strength)
    if layer.magnitude is None:
        return changed
    changed = changed * (layer.magnitude.to(wide) / changed.norm(dim=1))[:, None]
    return wide + strength * (changed - wide)


_LOG = logging.getLogger(__name__)
