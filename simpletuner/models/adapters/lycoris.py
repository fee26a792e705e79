"""LyCORIS adapters (LoKr, LoHa, LoCon, OFT and others) through the lycoris-lora package, from its JSON settings.

The package takes over the forward of each layer, which is undone here where it would outlast its use. Its network is
put into the trained one as the submodule `lycoris`, so that it moves, trains and is counted with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simpletuner.models.adapters import lycoris_network, lycoris_start
from simpletuner.models.adapters.formats.files import ordered
from simpletuner.models.adapters.lora_state import see_that_it_fits
from simpletuner.models.adapters.lycoris_network import tensors_of
from simpletuner.models.adapters.lycoris_settings import LycorisSettings
from simpletuner.models.adapters.lycoris_start import SETTINGS
from simpletuner.models.trained import Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SUBMODULE = "lycoris"


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
            network = lycoris_network.network(module, self.settings)
            if self.init_norm is not None:
                lycoris_start.near_zero(network, self.init_norm)
        network.apply_to()
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(True)
        module.add_module(SUBMODULE, network)
        if self.start_file is not None:
            lycoris_start.from_file(network, self.start_file, self)
        return Lycoris(module, network, self)


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
        return {name: one.detach() for name, one in tensors_of(self.network).items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put saved weights back; how they are scaled is as the settings have it now."""
        import torch

        see_that_it_fits(self.state(), state, layers=SETTINGS, sizes=SETTINGS)
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(state[name])

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
