"""Weights go to disk tensor by tensor, in files of a limited size, so that nothing exists twice while it is written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.models.weight_files import kinds

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LIMIT = 5_000_000_000
"""How many bytes of weights one file holds at most, unless a single tensor is larger."""


def write(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    *,
    dtype: torch.dtype | None = None,
    limit: int = LIMIT,
) -> None:
    """Write weights as diffusers lays them out: one file, or several with an index that joins them.

    Args:
        folder: Where; it must exist, and is to get its right name when everything is in it.
        name: The name of the file without its ending, such as ``diffusion_pytorch_model``.
        tensors: The weights, on whatever device.
        header: What every file says about itself.
        dtype: What fractional numbers become; unchanged unless given.
        limit: How many bytes one file holds at most.
    """
    shards = list(_shards(tensors, dtype, limit))
    names = [f"{name}.safetensors"]
    if len(shards) > 1:
        names = [f"{name}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        places = {tensor: file for file, shard in zip(names, shards, strict=True) for tensor in shard}
        size = sum(_size(one, dtype) for one in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for file, shard in zip(names, shards, strict=True):
        write_file(folder / file, shard, {"format": "pt", **header}, dtype=dtype)


def write_file(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], *, dtype: torch.dtype | None = None
) -> None:
    """Write one safetensors file; no more than one tensor is copied at a time."""
    # Wide numbers first, so that each tensor begins where its numbers can be read without moving them.
    ordered = sorted(tensors.items(), key=lambda entry: -_kind(entry[1], dtype).itemsize)
    with path.open("wb") as file:
        file.write(_beginning(ordered, header, dtype))
        for _, tensor in ordered:
            whole = tensor.detach().to("cpu", _kind(tensor, dtype)).contiguous().reshape(-1)
            file.write(whole.view(_byte()).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def kind_of(tensor: Tensor) -> str:
    """What safetensors calls the numbers of a tensor."""
    return _name_of(tensor.dtype)


def _shards(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, limit: int) -> Iterator[dict[str, Tensor]]:
    """The tensors in their order, as many of them together as fit."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        more = _size(tensor, dtype)
        if shard and size + more > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += more
    yield shard


def _beginning(tensors: list[tuple[str, Tensor]], header: Mapping[str, str], dtype: torch.dtype | None) -> bytes:
    """What stands before the numbers: where each tensor is."""
    told: dict[str, object] = {"__metadata__": dict(header)}
    start = 0
    for name, tensor in tensors:
        end = start + _size(tensor, dtype)
        kind = _name_of(_kind(tensor, dtype))
        told[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _size(tensor: Tensor, dtype: torch.dtype | None) -> int:
    return tensor.numel() * _kind(tensor, dtype).itemsize


def _kind(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """What the numbers of a tensor become."""
    return tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype


def _byte() -> torch.dtype:
    import torch

    return torch.uint8


def _name_of(dtype: torch.dtype) -> str:
    return next(name for name, kind in kinds().items() if kind == dtype)
