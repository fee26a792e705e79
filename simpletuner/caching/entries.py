"""One cache entry as bytes: a safetensors file with a checksum over every byte of it.

The checksum stands in the header, and is taken over the file with zeros in its place; so any program that reads
safetensors reads our entries, and no bit of one can change unnoticed. Rows of zeros at the end of a matrix, such as
the padding of a short prompt where it is set to zero, are left away and put back when the entry is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from torch import Tensor


class DamagedBytes(Exception):
    """The bytes are not those of a whole entry; the message says what is wrong with them."""


def packed(tensors: Mapping[str, Tensor], recipe: str) -> bytes:
    """The bytes of an entry; the same tensors always give the same bytes."""
    from safetensors.torch import save

    short = {name: _without_empty_rows(tensor).contiguous() for name, tensor in tensors.items()}
    rows = {name: len(tensor) for name, tensor in tensors.items() if short[name].shape != tensor.shape}
    facts = json.dumps({"recipe": recipe, "rows": rows}, sort_keys=True)
    # One field alone: safetensors writes several in any order, and equal entries shall be equal bytes.
    blank = save(short, metadata={_FIELD: f"xxh3:{_ZEROS.decode()} {facts}"})
    start = _place_of_checksum(blank)
    return b"".join([blank[:start], _checksum(blank, start), blank[start + len(_ZEROS) :]])


def unpacked(data: bytes) -> dict[str, Tensor]:
    """The tensors of an entry; DamagedBytes when a single bit of it is not as it was written."""
    from safetensors.torch import load

    facts = _facts(data)
    found: dict[str, Tensor] = load(data)
    for name, rows in facts["rows"].items():
        short = found[name]
        found[name] = short.new_zeros((rows, *short.shape[1:]))
        found[name][: len(short)] = short
    return found


def check(data: bytes) -> None:
    """DamagedBytes when these are not the bytes of a whole entry."""
    _facts(data)


def recipe_of(data: bytes) -> str:
    """What encoded an entry; DamagedBytes when it is not whole."""
    return str(_facts(data)["recipe"])


def _facts(data: bytes) -> dict[str, dict[str, int]]:
    if not data:
        raise DamagedBytes("it is empty")
    start = _place_of_checksum(data)
    if data[start : start + len(_ZEROS)] != _checksum(data, start):
        raise DamagedBytes("its checksum does not fit its content")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, dict[str, int]] = json.loads(header["__metadata__"][_FIELD][len("xxh3:") + len(_ZEROS) :])
    return found


def _place_of_checksum(data: bytes) -> int:
    header = 8 + int.from_bytes(data[:8], "little")
    found = _CHECKSUM.search(data, 8, min(header, len(data)))
    if found is None:
        raise DamagedBytes("its beginning is not that of a cache entry")
    return found.start(1)


def _checksum(data: bytes, start: int) -> bytes:
    digest = xxhash.xxh3_128()
    view = memoryview(data)
    for part in (view[:start], _ZEROS, view[start + len(_ZEROS) :]):
        digest.update(part)
    return digest.hexdigest().encode()


def _without_empty_rows(tensor: Tensor) -> Tensor:
    """A matrix without the rows at its end that are zero to the bit, but with at least one row."""
    import torch

    if tensor.dim() != 2 or not tensor.numel():
        return tensor
    filled = tensor.contiguous().view(torch.uint8).any(dim=1).nonzero()
    return tensor[: int(filled[-1]) + 1 if len(filled) else 1]


_FIELD = "simpletuner"
_ZEROS = b"0" * 32
_CHECKSUM = re.compile(rb'"simpletuner":"xxh3:([0-9a-f]{32}) ')
