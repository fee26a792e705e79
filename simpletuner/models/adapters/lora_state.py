"""The weights of an attached LoRA: where they are, out of it and back in again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simpletuner.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER = "default"
"""The name that PEFT knows the trained adapter by."""


def lora_layers(module: nn.Module) -> dict[str, Any]:  # PEFT has no types
    """The layers with the adapter, by their names in the network."""
    from peft.tuners.lora import LoraLayer

    found = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer))
    return {name: layer for name, layer in found if ADAPTER in layer.lora_A}


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters, by their names in the network."""
    return {name: one for name, one in module.named_parameters() if ".lora_" in name and f".{ADAPTER}." in name}


def layer_of(name: str) -> str:
    """The layer that a parameter of the adapter belongs to."""
    return name.partition(".lora_")[0]


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights under PEFT's names, such as ``transformer_blocks.0.attn.to_q.lora_A.weight``.

    An adapter with a start is one of twice the rank: what it has learned, and what it started from with a minus.
    """
    import torch

    starts = _starts(module)
    found: dict[str, Tensor] = {}
    for name, parameter in own_parameters(module).items():
        tensor = parameter.detach()
        if name in starts:
            is_second = ".lora_B." in name
            tensor = torch.cat([tensor, -starts[name] if is_second else starts[name]], dim=1 if is_second else 0)
        found[_short(name)] = tensor
    return found


def load_adapter_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put saved weights back into an attached adapter of the same shape.

    Raises:
        CheckpointError: Names or shapes differ: the adapter was made with other options.
    """
    import torch

    see_that_it_fits(adapter_state(module), state)
    starts = _starts(module)
    with torch.no_grad():
        for name, parameter in own_parameters(module).items():
            saved = state[_short(name)]
            if name in starts:
                is_second = ".lora_B." in name
                saved, start = saved.chunk(2, dim=1 if is_second else 0)
                starts[name].copy_(-start if is_second else start)
            parameter.copy_(saved)


def see_that_it_fits(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    *,
    layers: str = "flux_lora_target",
    sizes: str = "lora_rank",
) -> None:
    """Compare names and shapes of two states.

    Args:
        own: Of this run.
        state: What was saved.
        layers: The option that chooses layers.
        sizes: The option that says how large they are.

    Raises:
        CheckpointError: They differ.
    """
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())[0]
        raise CheckpointError(
            f"the saved adapter has other layers than this run's ('{odd}' is in only one of them). Use the "
            f"{layers} of the saved run, or start anew with resume_from_checkpoint set to none."
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"the saved adapter has shape {tuple(state[name].shape)} at '{name}', this run {tuple(tensor.shape)}. "
                f"Use the {sizes} of the saved run, or start anew with resume_from_checkpoint set to none."
            )


def _starts(module: nn.Module) -> dict[str, Tensor]:
    """The matrices that the adapter started from, by the names of the parameters that did."""
    from simpletuner.models.adapters.projections import Down, Up

    found = {}
    for name, part in module.named_modules():
        if isinstance(part, (Down, Up)) and part.start is not None:
            found[f"{name}.weight"] = part.start
    return found


def _short(name: str) -> str:
    """PEFT's name of a weight in a file."""
    plain = name.replace(f".{ADAPTER}.", ".")
    return plain.removesuffix(".weight") if ".lora_magnitude_vector" in plain else plain
