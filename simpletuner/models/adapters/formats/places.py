"""What all formats share: layers of a file looked up by name, taken apart, and joined again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats import fusing
from simpletuner.models.adapters.formats.keys import gathered, low_rank, without_alpha
from simpletuner.models.adapters.formats.names import Names, Place
from simpletuner.models.adapters.formats.neutral import LowRank

if TYPE_CHECKING:
    from torch import Tensor

Prefixes = Mapping[str, tuple[str, Names]]
"""What the names of a file begin with, each with the part of the model and the names inside it."""


def place(prefixes: Prefixes, layer: str) -> Place | None:
    """Where a layer of a file belongs; nothing when the format has no such name."""
    for prefix, (part, names) in prefixes.items():
        found = names.place(layer.removeprefix(prefix)) if layer.startswith(prefix) else None
        if found:
            return found.under(part)
    return None


def read(
    tensors: Mapping[str, Tensor],
    find: Callable[[str], Place | None],
    alpha: Callable[[str, int], float] = without_alpha,
) -> dict[str, LowRank]:
    """The layers of a file by the names of diffusers."""
    layers: dict[str, LowRank] = {}
    for name, roles in gathered(tensors).items():
        at = find(name)
        if at is None:
            raise ModelError(f"'{name}' is no layer of Flux or its text encoders. It was made for another model.")
        for part, layer in fusing.split(low_rank(name, roles, alpha), at).items():
            if part in layers:
                raise ModelError(f"'{part}' is in the file twice. Save it in one format only.")
            layers[part] = layer
    return layers


def joined(layers: Mapping[str, LowRank], prefixes: Prefixes, format: str) -> dict[str, LowRank]:
    """Layers by the names of a file; `prefixes` has one entry for each part of the model."""
    groups: dict[str, dict[str, LowRank]] = {}
    for name, layer in layers.items():
        groups.setdefault(_owner(name, prefixes, format), {})[name] = layer
    return {owner: fusing.fuse(group, _known(prefixes, owner)) for owner, group in groups.items()}


def _owner(name: str, prefixes: Prefixes, format: str) -> str:
    for prefix, (part, names) in prefixes.items():
        owner = names.owner(name.removeprefix(f"{part}.")) if name.startswith(f"{part}.") else None
        if owner:
            return prefix + owner
    raise ModelError(f"'{name}' has no name in the {format} format. Use the diffusers format.")


def _known(prefixes: Prefixes, owner: str) -> Place:
    found = place(prefixes, owner)
    assert found is not None
    return found
