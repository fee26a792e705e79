"""LyCORIS adapters (LoKr, LoHa, LoCon, OFT and others) through the lycoris-lora package, from its JSON settings.

The package takes over the forward of each layer and keeps its own settings in class attributes; both are undone here
where they would outlast their use. Its network is put into the trained one as the submodule `lycoris`, so that it
moves, trains and is counted with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import CheckpointError, ConfigError, ModelError, Problem
from simpletuner.models.adapters import diag_oft, dylora
from simpletuner.models.adapters.formats.files import find, ordered, read_tensors
from simpletuner.models.adapters.lora_state import see_that_it_fits
from simpletuner.models.adapters.lycoris_settings import LycorisSettings
from simpletuner.models.adapters.starts import plain_weight
from simpletuner.models.trained import Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SUBMODULE = "lycoris"
SETTINGS = "lycoris_config"
"""The entry of the header with the settings the adapter was made with, as JSON."""
_PREFIX = "lycoris_"


@dataclass(frozen=True)
class LycorisPlan:
    """What a LyCORIS adapter looks like before it exists."""

    settings: LycorisSettings
    init_norm: float | None = None
    """How far a LoKr adapter stands from zero at the start, as a share of the weights."""
    start_file: str | None = None

    def attach(self, module: nn.Module, dtype: torch.dtype, seed: int) -> Lycoris:
        """Put the adapter on a frozen network."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _network(module, self.settings)
            if self.init_norm is not None:
                _start_near_zero(network, self.init_norm)
        network.apply_to()
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(True)
        module.add_module(SUBMODULE, network)
        adapter = Lycoris(module, network, self)
        if self.start_file is not None:
            _start_from_file(adapter, self.start_file)
        return adapter


@dataclass(frozen=True)
class Lycoris:
    """A LyCORIS adapter on a network."""

    module: nn.Module
    network: Any
    """The package's; it has no types."""
    plan: LycorisPlan

    def groups(self) -> Sequence[Group]:
        """One group: the package knows no learning rates of layers."""
        return [Group(dict(self.network.named_parameters()))]

    def state(self) -> Mapping[str, Tensor]:
        """The weights as they are trained, with the scalings that belong to them."""
        scalings = {name: one for name, one in self.network.named_buffers() if name.endswith((".alpha", ".on_input"))}
        return {name: one.detach() for name, one in (*self.network.named_parameters(), *scalings.items())}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put saved weights back."""
        import torch

        see_that_it_fits(self.state(), state)
        with torch.no_grad():
            for name, tensor in self.state().items():
                tensor.copy_(state[name])

    def encode(self, metadata: Mapping[str, str]) -> bytes:
        """The state with the settings in its header."""
        return self._written(self.state(), metadata)

    def decode(self, data: bytes) -> Mapping[str, Tensor]:
        """The state in such a file."""
        from safetensors.torch import load

        found: dict[str, Tensor] = load(data)
        return found

    def publish(self, metadata: Mapping[str, str]) -> bytes:
        """The file that the package, and whatever uses it, reads."""
        return self._written(self.network.state_dict(), metadata)

    def _written(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
        from safetensors.torch import save

        header = {"format": "pt", SETTINGS: json.dumps(self.plan.settings.given, sort_keys=True), **metadata}
        whole = {name: one.detach().cpu().contiguous().clone() for name, one in tensors.items()}
        return ordered(save(whole, metadata=header))

    @contextmanager
    def without(self) -> Iterator[None]:
        """Give every layer its own forward back for a moment."""
        for layer in self.network.loras:
            layer.restore()
        try:
            yield
        finally:
            for layer in self.network.loras:
                layer.apply_to()

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Multiply the multiplier of every layer."""
        before = [layer.multiplier for layer in self.network.loras]
        try:
            for layer, multiplier in zip(self.network.loras, before, strict=True):
                layer.multiplier = multiplier * factor
            yield
        finally:
            for layer, multiplier in zip(self.network.loras, before, strict=True):
                layer.multiplier = multiplier

    def after_step(self) -> Mapping[str, float]:
        """Nothing is to be done."""
        return {}


def _network(module: nn.Module, settings: LycorisSettings) -> Any:
    """The package's network for the targeted layers, not yet applied to them."""
    module.requires_grad_(False)
    preset = _preset(module, settings)
    packed = _is_packed(module)
    if packed and settings.keeps_lengths:
        raise ModelError("lycoris_config: dora_wd needs the plain weights; set base_model_precision to no_change.")
    with _quietly(preset) as lycoris_network:
        network = lycoris_network(
            module,
            multiplier=settings.multiplier,
            lora_dim=settings.dim,
            alpha=settings.alpha,
            network_module=settings.algorithm,
            warn_on_unmatched=False,
            **{**settings.options, "bypass_mode": packed or settings.options.get("bypass_mode") or None},
        )
    if not network.loras:
        raise ModelError(f"lycoris_config: no layer of the network is one of {', '.join(_wanted(preset))}.")
    for layer in network.loras:
        if mend := _MENDED.get(type(layer).__name__):
            mend(layer)
    return network


_MENDED: Mapping[str, Callable[[Any], None]] = {"DyLoraModule": dylora.mend, "DiagOFTModule": diag_oft.mend}


@contextmanager
def _quietly(preset: Mapping[str, Any]) -> Iterator[Any]:
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
    classes = sorted({type(part).__name__ for part in module.modules()})

    def here(name: str) -> list[str]:
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


def _wanted(preset: Mapping[str, Any]) -> list[str]:
    return [*preset["target_module"], *preset.get("target_name", ()), *preset.get("name_algo_map", ())]


def _is_packed(module: nn.Module) -> bool:
    """Whether some linear layer keeps its weights in another form than plain numbers."""
    import torch

    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    plain = (torch.Tensor, torch.nn.Parameter)
    return any(type(layer) is not torch.nn.Linear or type(layer.weight.data) not in plain for layer in layers)


def _start_near_zero(network: Any, scale: float) -> None:
    """Set LoKr's first factor to one, and the second to noise with the mean and spread of the layer's own weights."""
    import torch

    with torch.no_grad():
        for layer in network.loras:
            parts = dict(layer.named_parameters())
            if not {"lokr_w1", "lokr_w2"} <= parts.keys():
                raise ModelError("init_lokr_norm needs algo lokr with full_matrix; leave it out, or set both.")
            weight = plain_weight(layer.org_module[0])
            noise = torch.randn_like(parts["lokr_w2"])
            parts["lokr_w1"].fill_(1.0)
            parts["lokr_w2"].copy_((noise / noise.std() * weight.std() + weight.mean()) * scale)


def _start_from_file(adapter: Lycoris, path: str) -> None:
    tensors, _ = read_tensors(find(Path(path).expanduser()))
    try:
        adapter.load(tensors)
    except CheckpointError as error:
        raise ModelError(f"init_lora: '{path}' is no adapter with the settings of lycoris_config ({error}).") from error


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


def is_lycoris(names: Iterable[str]) -> bool:
    """Whether the tensors of a file are those of a LyCORIS adapter of this program or SimpleTuner."""
    return any(name.startswith(_PREFIX) for name in names)


def merge_file(module: nn.Module, tensors: Mapping[str, Tensor], path: str, strength: float) -> None:
    """Add a LyCORIS adapter to the weights of a network.

    Raises:
        ModelError: It is of another network.
    """
    import torch

    with _quietly({}):
        from lycoris.wrapper import create_lycoris_from_weights

        network, _ = create_lycoris_from_weights(strength, None, module, weights_sd=dict(tensors))
    named = {name.partition(".")[0] for name in tensors}
    if len(network.loras) != len(named):
        raise ModelError(f"the adapter '{path}' does not fit the model: it has layers that the model has not.")
    try:
        with torch.no_grad():
            for layer in network.loras:
                weight = layer.org_module[0].weight
                weight.copy_(_merged(layer, weight, strength))
    except RuntimeError as error:
        raise ModelError(f"the adapter '{path}' does not fit the model: {error}") from error
