"""Other adapters that a network wears for a moment, beside whatever it is trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.adapters.adapter import FILE_NAME
from simpletuner.models.adapters.formats.files import read_adapter
from simpletuner.models.adapters.formats.fitting import check_fit, shapes
from simpletuner.models.adapters.formats.neutral import TRANSFORMER, LowRank
from simpletuner.models.sources import is_local, loading, looks_like_path

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from simpletuner.models.adapters.merging import BaseAdapter


@contextmanager
def wearing(module: nn.Module, adapters: Sequence[BaseAdapter]) -> Iterator[None]:
    """Put plain LoRAs on a network, which may be packed and may have other adapters on, and take them off again.

    Raises:
        ModelError: A file cannot be read, is of another network, or is no plain LoRA.
    """
    with ExitStack() as hooks:
        for adapter in adapters:
            for name, layer in _layers(module, adapter).items():
                handle = _add(module.get_submodule(name), layer, adapter.strength)
                hooks.callback(handle.remove)
        yield


def _layers(module: nn.Module, adapter: BaseAdapter) -> dict[str, LowRank]:
    known = {name.removesuffix(".base_layer"): shape for name, shape in shapes(module).items()}  # as PEFT wraps layers
    return layers_of(adapter, known)


def layers_of(adapter: BaseAdapter, known: Mapping[str, tuple[int, int]] | None) -> dict[str, LowRank]:
    """The weights of an adapter by layer, for a network of these shapes, if they are known; one on the Hub is fetched.

    Raises:
        ModelError: A file cannot be read, is of another network, or is no plain LoRA.
    """
    found = read_adapter(file_of(adapter.path))
    layers = found.of(TRANSFORMER)
    if found.has_magnitudes or not layers:
        raise ModelError(f"'{adapter.path}' is no plain LoRA of the transformer, and cannot be worn for a moment.")
    if known is not None:
        check_fit(layers, known, adapter.path)
    return layers


def _add(layer: nn.Module, weights: LowRank, strength: float) -> RemovableHandle:
    from torch.nn.functional import linear

    places: dict[object, tuple[Tensor, Tensor]] = {}

    def add(of: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        here = (args[0].device, args[0].dtype)
        if here not in places:
            places[here] = (weights.down.to(*here), (weights.up * weights.scale).to(*here))
        down, up = places[here]
        return output + strength * linear(linear(args[0], down), up)

    return layer.register_forward_hook(add)


def file_of(source: str) -> Path:
    """The file of an adapter: a path, or an id on the Hub, after which a colon may name the file."""
    if not is_on_hub(source):
        return Path(source).expanduser()
    from huggingface_hub import hf_hub_download

    repository, _, name = source.partition(":")
    with loading("The adapter", source, option="validation_adapter_path or validation_adapter_config"):
        return Path(hf_hub_download(repository, name or FILE_NAME))


def is_on_hub(source: str) -> bool:
    """Whether an adapter is not on this machine: an id is there, with or without the name of a file."""
    repository = source.partition(":")[0]
    return not is_local(repository) and not looks_like_path(repository)
