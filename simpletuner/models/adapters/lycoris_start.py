"""Where a LyCORIS adapter begins: near zero, or at the weights of a file; an outline tells early whether it can."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError, Problem
from simpletuner.models.adapters import dylora
from simpletuner.models.adapters.formats.files import find, read_shapes, read_tensors
from simpletuner.models.adapters.lokr import is_whole
from simpletuner.models.adapters.lycoris_network import sketch, tensors_of
from simpletuner.models.adapters.lycoris_settings import whole
from simpletuner.models.adapters.starts import plain_weight

if TYPE_CHECKING:
    from torch import Tensor, nn

    from simpletuner.models.adapters.lycoris import LycorisPlan

SETTINGS = "lycoris_config"
"""The entry of the header with the settings the adapter was made with, as JSON."""


def problems(plan: LycorisPlan, outline: nn.Module) -> Iterator[Problem]:
    """What will not work on the network of this outline, of which no weights are needed."""
    try:
        network = sketch(outline, plan.settings)
        if plan.init_norm is not None:
            see_that_it_is_whole(network)
        if plan.start_file is not None:
            shapes, header = read_shapes(find(Path(plan.start_file).expanduser()))
            see_that_it_fits(network, _empty(shapes), header, plan)
    except ModelError as error:
        option, _, said = str(error).rstrip(".").partition(": ")
        yield Problem(option, said)


def _empty(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    import torch

    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def near_zero(network: Any, scale: float) -> None:
    """Set LoKr's first factor to one, and the second to noise with the mean and spread of the layer's own weights."""
    import torch

    see_that_it_is_whole(network)
    with torch.no_grad():
        for layer in network.loras:
            weight = plain_weight(layer.org_module[0])
            noise = torch.randn_like(layer.lokr_w2)
            layer.lokr_w1.fill_(1.0)
            layer.lokr_w2.copy_((noise / noise.std() * weight.std() + weight.mean()) * scale)


def see_that_it_is_whole(network: Any) -> None:
    """Look for layers that cannot begin near zero.

    Raises:
        ModelError: There are some.
    """
    for layer in network.loras:
        if not is_whole(layer):
            place = layer.lora_name.removeprefix(f"{network.LORA_PREFIX}_")
            raise ModelError(
                f"init_lokr_norm: needs algo lokr with full_matrix, and {place} is trained otherwise; "
                f"leave it out, or set both."
            )


def from_file(network: Any, path: str, plan: LycorisPlan) -> None:
    """Give an applied network the weights of a file, with their scaling.

    Raises:
        ModelError: They do not fit.
    """
    import torch

    tensors, header = read_tensors(find(Path(path).expanduser()))
    see_that_it_fits(network, tensors, header, plan)
    given = _completed(network, tensors)
    with torch.no_grad():
        for layer in network.loras:
            for name, one in layer.named_parameters():
                one.copy_(given[f"{layer.lora_name}.{name}"])
            _take_alpha(layer, given)


def _take_alpha(layer: Any, given: Mapping[str, Tensor]) -> None:
    """Let the weights of a file act as they did, whatever linear_alpha says now."""
    kind = type(layer).__name__
    if kind not in _WITH_ALPHA or (kind == "LokrModule" and is_whole(layer)):
        return
    layer.alpha.copy_(given[f"{layer.lora_name}.alpha"])
    layer.scale = float(layer.alpha) / layer.lora_dim


_WITH_ALPHA = {"LoConModule", "LohaModule", "LokrModule", "GLoRAModule", "DyLoraModule"}
"""Those whose alpha scales what they add; of the others it is a constraint of training, or they have none."""


def see_that_it_fits(network: Any, tensors: Mapping[str, Tensor], header: Mapping[str, str], plan: LycorisPlan) -> None:
    """Compare a file with the network that shall start from it, by names and shapes.

    Raises:
        ModelError: They differ.
    """
    if said := _difference(tensors_of(network), _completed(network, tensors)):
        raise ModelError(
            f"init_lora: '{plan.start_file}' is no adapter with the settings of lycoris_config: {said}. "
            f"{_advice(header, plan.settings.given)}"
        )


def _difference(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for name in sorted(own.keys() | found.keys()):
        if name not in own:
            return f"it has '{name}', and this run has not"
        if name not in found:
            return f"it has no '{name}'"
        if own[name].shape != found[name].shape:
            there, here = tuple(found[name].shape), tuple(own[name].shape)
            return f"'{name}' has shape {there} there, and {here} in this run"
    return None


def _advice(header: Mapping[str, str], given: Mapping[str, Any]) -> str:
    """What to change, by what the file says of itself."""
    made = whole(json.loads(header[SETTINGS])) if SETTINGS in header else {}
    now = whole(given)
    changed = [f"{name} {json.dumps(value)}" for name, value in made.items() if value != now[name]]
    if changed:
        return f"It was made with {', '.join(changed)}; set that, or leave init_lora out."
    return "Use the settings that it was made with, or leave init_lora out."


def _completed(network: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint or of a published file, where some of them are multiplied into others, or joined."""
    import torch

    found = dict(tensors)
    for layer in network.loras:
        own = {name for name, _ in layer.named_parameters()}
        if "scalar" in own and f"{layer.lora_name}.alpha" in found:
            found.setdefault(f"{layer.lora_name}.scalar", torch.ones(()))
        if type(layer).__name__ == "DyLoraModule" and f"{layer.lora_name}.lora_up.weight" in found:
            found |= dylora.blocks(layer, found)
            for side in ("lora_up", "lora_down"):
                found.pop(f"{layer.lora_name}.{side}.weight", None)
    return found
