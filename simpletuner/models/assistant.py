"""A helping adapter: frozen, at work while training, and gone from what is saved.

A model that was distilled to few steps loses that ability when it is trained. Beside an adapter that takes the
distillation back, it does not have to; without it afterwards, few steps are enough again. It stays at work when the
trained adapter is switched off for a moment: what regularisation data is compared with must have the same help, or the
trained adapter would learn to undo it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.adapters.adapter import FILE_NAME
from simpletuner.models.adapters.formats.files import read_adapter
from simpletuner.models.adapters.formats.fitting import check_fit, shapes
from simpletuner.models.adapters.formats.neutral import TRANSFORMER, LowRank
from simpletuner.models.sources import is_local, loading, looks_like_path

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Assistant:
    """Which helping adapter is used, and how strongly."""

    source: str
    """A file, a folder, or an id on the Hub."""
    strength: float = 1.0
    """In training."""
    inference_strength: float = 0.0
    """In validation, and when the loss is measured."""


def attach(module: nn.Module, assistant: Assistant, dtype: torch.dtype) -> None:
    """Put it on a frozen network, which is packed already if it is to be packed; the trained adapter comes after it.

    Raises:
        ModelError: The file cannot be read, is of another network, or is no plain LoRA.
    """
    adapter = read_adapter(_file(assistant.source))
    layers = adapter.of(TRANSFORMER)
    check_fit(layers, shapes(module), assistant.source)
    if adapter.has_magnitudes or not layers:
        raise ModelError(f"assistant_lora_path: '{assistant.source}' is no plain LoRA of the transformer. Use one.")
    for name, weights in layers.items():
        _help(module.get_submodule(name), weights, assistant, dtype)


def _help(layer: nn.Module, weights: LowRank, assistant: Assistant, dtype: torch.dtype) -> None:
    from torch import nn
    from torch.nn.functional import linear

    # Buffers of a module inside the layer: so they move with it, and are no part of any file.
    helper = nn.Module()
    helper.register_buffer("down", weights.down.to(dtype), persistent=False)
    helper.register_buffer("up", (weights.up * weights.scale).to(dtype), persistent=False)
    layer.add_module("assistant", helper)

    def add(of: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        strength = assistant.strength if of.training else assistant.inference_strength
        if not strength:
            return output
        return output + strength * linear(linear(args[0], helper.get_buffer("down")), helper.get_buffer("up"))

    layer.register_forward_hook(add)


def _file(source: str) -> Path:
    if is_local(source) or looks_like_path(source):
        return Path(source).expanduser()
    from huggingface_hub import hf_hub_download

    with loading("The assistant adapter", source, option="assistant_lora_path"):
        return Path(hf_hub_download(source, FILE_NAME))
