"""An attached LoRA as a file: exactly as it is for a checkpoint, and in the form of any program when it is done."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simpletuner.models.adapters.formats.diffusers import SETTINGS
from simpletuner.models.adapters.formats.files import ordered
from simpletuner.models.adapters.formats.neutral import TRANSFORMER, Lora, LowRank
from simpletuner.models.adapters.lora_state import ADAPTER, adapter_state, lora_layers

if TYPE_CHECKING:
    from torch import Tensor, nn


def neutral(module: nn.Module, part: str = TRANSFORMER) -> Lora:
    """What the adapter adds to the network, layer by layer; one with a start has twice its rank here."""
    state = adapter_state(module)
    found = {}
    for name, layer in lora_layers(module).items():
        down = state[f"{name}.lora_A.weight"]
        alpha = layer.scaling[ADAPTER] * down.shape[0]
        magnitude = state.get(f"{name}.lora_magnitude_vector")
        found[f"{part}.{name}"] = LowRank(down, state[f"{name}.lora_B.weight"], alpha, magnitude)
    return Lora(found)


def encode_file(module: nn.Module, metadata: Mapping[str, str], *, part: str = TRANSFORMER) -> bytes:
    """The adapter as a diffusers LoRA file: keys under its part, with scaling and `metadata` in the header."""
    return encode_parts({part: module}, metadata)


def encode_parts(parts: Mapping[str, nn.Module], metadata: Mapping[str, str]) -> bytes:
    """The adapters of several networks as one such file, each by what of the model it is on."""
    from safetensors.torch import save

    states = {part: adapter_state(module) for part, module in parts.items()}
    tensors = {f"{part}.{name}": one.cpu().contiguous() for part in parts for name, one in states[part].items()}
    found = {part.partition(".")[0]: _settings(module) for part, module in parts.items()}
    settings = {f"{part}.{name}": value for part, ones in found.items() for name, value in ones.items()}
    header = {"format": "pt", SETTINGS: json.dumps(settings, sort_keys=True), **metadata}
    return ordered(save(tensors, metadata=header))


def decode_file(data: bytes, part: str = TRANSFORMER) -> dict[str, Tensor]:
    """The weights of a diffusers LoRA file, under PEFT's names."""
    return {name.removeprefix(f"{part}."): tensor for name, tensor in decode_parts(data).items()}


def decode_parts(data: bytes) -> dict[str, Tensor]:
    """The same with what of the model they are of in front."""
    from safetensors.torch import load

    found: dict[str, Tensor] = load(data)
    return found


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a loader needs to know; more would keep other versions of PEFT from loading the file."""
    config: Any = module.peft_config[ADAPTER]  # type: ignore[index]  # a mixin of diffusers models
    layers = neutral(module).of(TRANSFORMER)
    # With rsLoRA the product is divided by the root of the rank.
    alphas = {name: one.alpha / one.rank**0.5 if config.use_rslora else one.alpha for name, one in layers.items()}
    rank = Counter(one.rank for one in layers.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": "|".join(map(re.escape, layers)),
        "bias": "none",
        # A loader that finds dropout here keeps it active when it draws; it is over when training is.
        "lora_dropout": 0.0,
        "rank_pattern": {_only(name): one.rank for name, one in layers.items() if one.rank != rank},
        "alpha_pattern": {_only(name): one for name, one in alphas.items() if one != alpha},
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
    }
    return {name: value for name, value in settings.items() if value is not False}


def _only(name: str) -> str:
    """A pattern of PEFT that matches this layer, and none whose name ends like it."""
    return f"^{re.escape(name)}"
