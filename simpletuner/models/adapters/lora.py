"""LoRA through PEFT: attach it to a frozen network, say what is trained, switch it off for a moment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.adapters.adapter import FILE_NAME, trainable
from simpletuner.models.adapters.dropout import Dropout
from simpletuner.models.adapters.formats.files import encode
from simpletuner.models.adapters.formats.fitting import shapes
from simpletuner.models.adapters.formats.neutral import TRANSFORMER
from simpletuner.models.adapters.from_file import FileStart
from simpletuner.models.adapters.layers import Layer, Shape, choose
from simpletuner.models.adapters.lora_file import decode_file, encode_file, neutral
from simpletuner.models.adapters.lora_state import (
    ADAPTER,
    adapter_state,
    layer_of,
    load_adapter_state,
    lora_layers,
    own_parameters,
)
from simpletuner.models.adapters.norms import limit
from simpletuner.models.adapters.starts import FROM_NOTHING, STARTS, plain_weight
from simpletuner.models.trained import Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "FILE_NAME",
    "Lora",
    "LoraPlan",
    "adapter_state",
    "attach",
    "decode_file",
    "encode_file",
    "linear_layers",
    "load_adapter_state",
    "trainable",
]


@dataclass(frozen=True)
class LoraPlan:
    """What a LoRA looks like before it exists."""

    targets: tuple[str, ...]
    rank: int
    alpha: float | None = None
    """None makes it the rank of each layer."""
    dropout: Dropout = Dropout()
    init: str = "default"
    """A name of STARTS."""
    shape: Shape = field(default_factory=Shape)
    use_dora: bool = False
    use_rslora: bool = False
    ratio: float = 1.0
    """How many times faster the second matrix learns than the first (LoRA+)."""
    max_norm: float | None = None
    """The largest Frobenius norm of what a layer adds to the weights."""
    start_file: str | None = None
    """A LoRA file in any known form to go on from."""
    file_format: str = "diffusers"
    part: str = TRANSFORMER
    """What of the model the network is, as files name it."""
    parts: tuple[str, ...] = ()
    """Everything of the model that gets an adapter, where it is more than this network."""

    def attach(self, module: nn.Module, dtype: torch.dtype, seed: int) -> Lora:
        """Put the LoRA on a frozen network."""
        return attach(module, self, dtype, seed)


@dataclass(frozen=True)
class Lora:
    """A LoRA on a network."""

    module: nn.Module
    plan: LoraPlan
    layers: tuple[Layer, ...]

    def groups(self) -> Sequence[Group]:
        """The weights by learning rate: layers with a rule of their own, and the second matrices for LoRA+."""
        rates = {layer.name: layer.learning_rate for layer in self.layers}
        found: dict[tuple[float | None, float], dict[str, nn.Parameter]] = {(None, 1.0): {}}
        for name, parameter in own_parameters(self.module).items():
            multiplier = self.plan.ratio if ".lora_B." in name else 1.0
            found.setdefault((rates[layer_of(name)], multiplier), {})[name] = parameter
        return [Group(ones, rate, multiplier) for (rate, multiplier), ones in found.items() if ones]

    def state(self) -> Mapping[str, Tensor]:
        """The weights under PEFT's names."""
        return adapter_state(self.module)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put saved weights back."""
        load_adapter_state(self.module, state)

    def encode(self, metadata: Mapping[str, str]) -> bytes:
        """A diffusers file whose scaling is in its header."""
        return encode_file(self.module, metadata, part=self.plan.part)

    def decode(self, data: bytes) -> Mapping[str, Tensor]:
        """The weights of such a file."""
        return decode_file(data, self.plan.part)

    def publish(self, metadata: Mapping[str, str]) -> bytes:
        """A file in the form that `lora_format` names."""
        return encode(neutral(self.module, self.plan.part), self.plan.file_format, metadata)

    @contextmanager
    def without(self) -> Iterator[None]:
        """Switch every layer of the adapter off."""
        module: Any = self.module  # with a mixin of diffusers models
        module.disable_adapters()
        try:
            yield
        finally:
            module.enable_adapters()

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Multiply the scaling of every layer; the lengths of DoRA stay, as they do in other programs."""
        layers = lora_layers(self.module).values()
        before = [layer.scaling[ADAPTER] for layer in layers]
        try:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling[ADAPTER] = scaling * factor
            yield
        finally:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling[ADAPTER] = scaling

    def after_step(self) -> Mapping[str, float]:
        """Keep what the layers add within `max_norm`."""
        return {} if self.plan.max_norm is None else limit(lora_layers(self.module).values(), self.plan.max_norm)


def attach(module: nn.Module, plan: LoraPlan, dtype: torch.dtype, seed: int) -> Lora:
    """Put trainable matrices beside the targeted linear layers; the output does not change until they are trained.

    Args:
        module: A frozen network; the only trainable parameters afterwards are the adapter's.
        plan: Targets, ranks and scaling.
        dtype: Precision of the trainable weights.
        seed: Fixes the random half of the start values.

    Raises:
        ModelError: No layer of the network matches, or the file to start from is of another network.
    """
    import torch

    names = list(linear_layers(module))
    layers = choose(names, plan.targets, plan.rank, plan.alpha, plan.shape)
    file = None
    if plan.start_file is not None:
        file = FileStart.read(plan.start_file, shapes(module), use_dora=plan.use_dora, part=plan.part, parts=plan.parts)
        layers = file.sizes(layers, names, use_rslora=plan.use_rslora)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.add_adapter(_config(plan, layers), adapter_name=ADAPTER)  # type: ignore[operator]  # from a mixin
        _start(module, plan, dtype)
    for parameter in own_parameters(module).values():
        parameter.data = parameter.data.to(dtype)
    if file is not None:
        file.put(lora_layers(module), dtype)
    return Lora(module, plan, layers)


def _config(plan: LoraPlan, layers: Sequence[Layer]) -> Any:  # PEFT has no types
    """The same in PEFT's words. Its endings would match too much, so that every layer is named in full."""
    from peft import LoraConfig

    alpha = float(plan.rank) if plan.alpha is None else plan.alpha
    return LoraConfig(
        r=plan.rank,
        lora_alpha=alpha,
        lora_dropout=plan.dropout.before,
        use_dora=plan.use_dora,
        use_rslora=plan.use_rslora,
        init_lora_weights="gaussian" if plan.init == "gaussian" else True,
        target_modules="|".join(re.escape(layer.name) for layer in layers),
        rank_pattern={f"^{re.escape(one.name)}": one.rank for one in layers if one.rank != plan.rank},
        alpha_pattern={f"^{re.escape(one.name)}": one.alpha for one in layers if one.alpha != alpha},
    )


def _start(module: nn.Module, plan: LoraPlan, dtype: torch.dtype) -> None:
    """Replace PEFT's matrices where they cannot do what the plan asks for."""
    if plan.init in FROM_NOTHING and not plan.dropout.is_between:
        return
    from simpletuner.models.adapters.projections import Down

    for name, layer in lora_layers(module).items():
        if plan.init in FROM_NOTHING:
            layer.lora_A[ADAPTER] = Down(layer.lora_A[ADAPTER], plan.dropout, None)
        else:
            _start_from_base(name, layer, plan, dtype)


def _start_from_base(name: str, layer: Any, plan: LoraPlan, dtype: torch.dtype) -> None:
    from simpletuner.models.adapters.projections import Down, Up

    weight = plain_weight(layer.get_base_layer())
    rank = layer.r[ADAPTER]
    if rank > min(weight.shape):
        raise ModelError(
            f"lora_init_type {plan.init} cannot give rank {rank} to '{name}', whose weights have shape "
            f"{tuple(weight.shape)}; use a rank of at most {min(weight.shape)}, or lora_init_type default."
        )
    first, second = (one.to(dtype).contiguous() for one in STARTS[plan.init](weight, rank, layer.scaling[ADAPTER]))
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    down.weight.data, up.weight.data = first.clone(), second.clone()
    layer.lora_A[ADAPTER], layer.lora_B[ADAPTER] = Down(down, plan.dropout, first), Up(up, second)


def linear_layers(module: nn.Module) -> Iterator[str]:
    """The names of the linear layers of a network, packed ones too, without those of adapters."""
    from torch import nn

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and ".lora_" not in name:
            yield name.removesuffix(".base_layer")
