"""LyCORIS files that become part of a base; an outline tells early whether they can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.adapters.lycoris_network import outlined, quietly

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIX = "lycoris_"


def is_lycoris(names: Iterable[str]) -> bool:
    """Whether the tensors of a file are those of a LyCORIS adapter of this program or SimpleTuner."""
    return any(name.startswith(_PREFIX) for name in names)


def merge_file(module: nn.Module, tensors: Mapping[str, Tensor], path: str, strength: float) -> None:
    """Add a LyCORIS adapter to the weights of a network.

    Raises:
        ModelError: It is of another network.
    """
    import torch

    with torch.no_grad():
        for layer in _layers(module, tensors, path):
            weight = layer.org_module[0].weight
            weight.copy_(_merged(layer, weight, strength))


def see_that_it_merges(outline: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: str) -> None:
    """The same without weights.

    Raises:
        ModelError: As `merge_file` would raise it.
    """
    import torch

    # The package makes plain numbers of the scalings, which needs some value.
    numbers = {name: torch.ones(()) for name, shape in shapes.items() if shape == ()}
    with outlined():
        others = {name: torch.empty(shape) for name, shape in shapes.items() if shape != ()}
        _layers(outline.to("meta"), {**others, **numbers}, path)


def _layers(module: nn.Module, tensors: Mapping[str, Tensor], path: str) -> Sequence[Any]:
    """The package's layers with the weights of a file."""
    if any(name.endswith(".on_input") for name in tensors):
        raise ModelError(f"the adapter '{path}' is of algo ia3, which cannot become part of a base; leave it out.")
    places = {name.partition(".")[0] for name in tensors}
    with quietly({}):
        from lycoris.modules import get_module
        from lycoris.wrapper import create_lycoris_from_weights

        if unknown := next((place for place in sorted(places) if get_module(tensors, place)[0] is None), None):
            raise ModelError(f"the adapter '{path}' has an unknown kind of weights at '{unknown}'; leave it out.")
        try:
            network, _ = create_lycoris_from_weights(1.0, None, module, weights_sd=dict(tensors))
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise ModelError(
                f"the adapter '{path}' does not fit the model, or was made with wd_on_output false or "
                f"unbalanced_factorization, which cannot become part of a base: {said}"
            ) from error
    layers: Sequence[Any] = network.loras
    if len(layers) != len(places):
        raise ModelError(f"the adapter '{path}' does not fit the model: it has layers that the model has not.")
    return layers


def _merged(layer: Any, weight: Tensor, strength: float) -> Tensor:
    """The weights with a layer of the package in them, as its forward has them.

    For LoHa and LoKr the package's own merging multiplies by alpha divided by rank twice.
    """
    merged: Tensor
    if type(layer).__name__ not in {"LohaModule", "LokrModule"}:
        merged, _ = layer.get_merged_weight(strength, weight.shape, weight.device)
    elif layer.wd:
        merged = layer.apply_weight_decompose(weight + _added(layer, weight), strength)
    else:
        merged = weight + _added(layer, weight) * strength
    return merged


def _added(layer: Any, weight: Tensor) -> Tensor:
    added: Tensor = layer.get_weight(weight.shape) * layer.scalar
    return added.to(weight)
