"""The network of the lycoris-lora package: made for the layers that settings aim at, on weights or on an outline.

The package keeps its own settings in class attributes; they are put back here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ConfigError, ModelError, Problem
from simpletuner.models.adapters import diag_oft, dylora, glora, lokr
from simpletuner.models.adapters.lycoris_places import MAPS
from simpletuner.models.adapters.lycoris_settings import LycorisSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


def network(module: nn.Module, settings: LycorisSettings) -> Any:
    """The package's network for the targeted layers, not yet applied to them.

    Raises:
        ModelError: There are no such layers, or the algorithm cannot work on one of them.
    """
    module.requires_grad_(False)
    packed = _is_packed(module)
    if packed and settings.keeps_lengths:
        raise ModelError("lycoris_config: dora_wd needs the plain weights; set base_model_precision to no_change.")
    preset = _beside(_preset(module, settings), packed)
    with quietly(preset) as lycoris_network:
        try:
            made = lycoris_network(
                module,
                multiplier=settings.multiplier,
                lora_dim=settings.dim,
                alpha=settings.alpha,
                network_module=settings.algorithm,
                warn_on_unmatched=False,
                **{**settings.options, "bypass_mode": packed or settings.options.get("bypass_mode") or None},
            )
        except ValueError as error:
            raise ModelError(f"lycoris_config: {str(error).rstrip('.')}; {_TO_TURN}.") from error
    if not made.loras:
        raise ModelError(f"lycoris_config: {_nothing(preset)}.")
    for layer in made.loras:
        if mend := _MENDED.get(type(layer).__name__):
            mend(layer)
    return made


_TO_TURN = "raise linear_dim to twice the largest odd number that divides the outputs of each layer, or use diag-oft"


def sketch(outline: nn.Module, settings: LycorisSettings) -> Any:
    """The network for an outline: its tensors have shapes and no numbers.

    Raises:
        ModelError: As for `network`.
    """
    with outlined():
        return network(outline.to("meta"), settings)


@contextmanager
def outlined() -> Iterator[None]:
    """A moment in which new tensors have no numbers, and others without stay where they are.

    The package copies weights to the main memory to measure their lengths.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Staying(TorchFunctionMode):
        """Copies nothing to the main memory."""

        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:  # torch says nothing of their types
            return args[0] if func is torch.Tensor.cpu else func(*args, **(kwargs or {}))

    with torch.device("meta"), Staying():
        yield


def tensors_of(made: Any) -> dict[str, Tensor]:
    """What is trained of a network, and the scalings that belong to it, by the names they have in a file."""
    found: dict[str, Tensor] = {}
    for layer in made.loras:
        scalings = [(name, one) for name, one in layer.named_buffers() if name in {"alpha", "on_input"}]
        found |= {f"{layer.lora_name}.{name}": one for name, one in (*layer.named_parameters(), *scalings)}
    return found


_MENDED: Mapping[str, Callable[[Any], None]] = {
    "DyLoraModule": dylora.mend,
    "DiagOFTModule": diag_oft.mend,
    "GLoRAModule": glora.mend,
    "LokrModule": lokr.mend,
}


@contextmanager
def quietly(preset: Mapping[str, Any]) -> Iterator[Any]:
    """The package's class with these targets, and as it was afterwards; it would print as it goes."""
    try:
        from lycoris.logging import logger
        from lycoris.wrapper import LycorisNetwork
    except ImportError as error:
        advice = f"lycoris needs a package that is missing ({error}): pip install 'simpletuner[lycoris]'"
        raise ConfigError("the config", [Problem("lora_type", advice)]) from error
    level, before = logger.level, {name: vars(LycorisNetwork)[name] for name in _CLASS_SETTINGS}
    logger.setLevel("ERROR")
    try:
        with redirect_stdout(StringIO()):
            yield LycorisNetwork.apply_preset({**_EMPTY, **preset})
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(LycorisNetwork, name, value)


_EMPTY = {"target_name": [], "module_algo_map": {}, "name_algo_map": {}, "exclude_name": [], "use_fnmatch": False}
_CLASS_SETTINGS = (
    "TARGET_REPLACE_MODULE",
    "TARGET_REPLACE_NAME",
    "MODULE_ALGO_MAP",
    "NAME_ALGO_MAP",
    "TARGET_EXCLUDE_NAME",
    "USE_FNMATCH",
)


def _preset(module: nn.Module, settings: LycorisSettings) -> dict[str, Any]:
    """The targets with the names that their classes have here: what was Attention once is FluxAttention now."""
    from torch import nn

    classes = sorted({type(part).__name__ for part in module.modules()})
    linear = sorted({type(part).__name__ for part in module.modules() if isinstance(part, nn.Linear)})

    def here(name: str) -> list[str]:
        if name == nn.Linear.__name__:  # packed ones are called otherwise
            return linear
        return [name] if name in classes else [one for one in classes if one.endswith(name)]

    preset = dict(settings.preset)
    for wanted in preset["target_module"]:
        if not here(wanted):
            raise ModelError(
                f"lycoris_config: the network has no {wanted} (target_module). It has {', '.join(classes)}."
            )
    preset["target_module"] = [found for wanted in preset["target_module"] for found in here(wanted)]
    mapped = preset.get("module_algo_map") or {}
    preset["module_algo_map"] = {found: entry for wanted, entry in mapped.items() for found in here(wanted)}
    return preset


def _beside(preset: dict[str, Any], packed: bool) -> dict[str, Any]:
    """The same with layers of packed weights left alone, whatever an entry says."""
    for name in MAPS:
        found = preset.get(name) or {}
        preset[name] = {key: {**entry, "bypass_mode": True} if packed else entry for key, entry in found.items()}
    return preset


def _nothing(preset: Mapping[str, Any]) -> str:
    """Why no layer is trained."""
    named = [
        *preset["target_module"],
        *preset.get("target_name", ()),
        *preset["module_algo_map"],
        *preset["name_algo_map"],
    ]
    if not named:
        return "names no layer to train; name some in target_module, or leave apply_preset out"
    left_out = " that exclude_name leaves" if preset.get("exclude_name") else ""
    return f"no linear layer{left_out} is one of {', '.join(dict.fromkeys(named))}"


def _is_packed(module: nn.Module) -> bool:
    """Whether some linear layer keeps its weights in another form than plain numbers."""
    import torch

    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    plain = (torch.Tensor, torch.nn.Parameter)
    return any(type(layer) is not torch.nn.Linear or type(layer.weight.data) not in plain for layer in layers)
