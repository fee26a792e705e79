"""Weight files as lists of tensors that are read one by one, checked to be whole before the first is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAFE = (".safetensors", ".sft")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
WEIGHTS = (*SAFE, *PICKLES, ".gguf")
"""How the names of weight files end, readable here or not."""


@dataclass(frozen=True)
class Entry:
    """One tensor in a file."""

    file: Path
    kind: str
    """As safetensors calls it, such as BF16."""
    shape: tuple[int, ...]
    start: int
    """Where its first byte is."""
    size: int
    """How many bytes it takes."""

    def read(self, rows: slice | None = None) -> Tensor:
        """The tensor as it is stored, or those of its rows; only their bytes are read."""
        import torch

        first, last, _ = (rows or slice(None)).indices(self.shape[0] if self.shape else 1)
        width = self.size // (self.shape[0] if self.shape else 1) if self.size else 0
        found = torch.empty((last - first) * width, dtype=torch.uint8)
        # Read and not mapped: pages of a mapped file count as memory of this process until the system takes them back.
        with self.file.open("rb") as file:
            file.seek(self.start + first * width)
            if found.numel():
                file.readinto(found.numpy().data)
        shape = (last - first, *self.shape[1:]) if self.shape else ()
        return found.view(_dtype(self.kind)).reshape(shape)


Contents = Mapping[str, Entry]
"""The tensors of one or several files, by name."""


def contents(path: Path) -> Contents:
    """What is in a safetensors file, from its header alone.

    Raises:
        ModelError: The file is of another kind, or it ends too early.
    """
    refuse_other_kinds(path)
    header, start = _header(path)
    found = {name: _entry(path, start, told) for name, told in header.items() if name != "__metadata__"}
    needed = max((entry.start + entry.size for entry in found.values()), default=start)
    there = path.stat().st_size
    if there < needed:
        raise ModelError(
            f"{path} ends too early: it has {there:,} bytes of {needed:,}. Copy or download it again; nothing was "
            f"loaded."
        )
    return found


def refuse_other_kinds(path: Path) -> None:
    """Raise where a file is of a kind that is not read here."""
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened, and is refused. Use the .safetensors file of "
            f"the same model, or convert it where you trust it."
        )
    if path.suffix.lower() == ".gguf":
        raise ModelError(
            f"{path} is a GGUF file, whose packed weights cannot be trained on. Use the .safetensors file of the same "
            f"model, and base_model_precision to pack it."
        )


def folder_contents(folder: Path, variant: str | None = None) -> Contents:
    """The tensors of one part of a model in diffusers layout: one file, or shards with an index.

    Raises:
        ModelError: There are no weights, only pickles, or a shard is missing or ends too early.
    """
    infix = f".{variant}" if variant else ""
    for index in sorted(folder.glob(f"*.safetensors.index{infix}.json")):
        return _sharded(folder, index)
    there = sorted(folder.glob("*.safetensors"))
    whole = [path for path in there if _variant(path) == (variant or "")] or ([] if variant else there)
    if not whole:
        raise _nothing(folder, variant)
    if len(whole) > 1:
        names = ", ".join(path.name for path in whole)
        raise ModelError(f"{folder} has several weight files and no index that joins them: {names}. Keep one of them.")
    return contents(whole[0])


def _sharded(folder: Path, index: Path) -> Contents:
    places: dict[str, str] = json.loads(index.read_text())["weight_map"]
    names = sorted(set(places.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}. Download it again."
        )
    shards = {name: contents(folder / name) for name in names}
    absent = [tensor for tensor, name in places.items() if tensor not in shards[name]]
    if absent:
        raise ModelError(
            f"{folder / places[absent[0]]} lacks '{absent[0]}', which {index.name} promises. Download the folder again."
        )
    return {tensor: shards[name][tensor] for tensor, name in places.items()}


def _nothing(folder: Path, variant: str | None) -> ModelError:
    """Why a folder has no weights."""
    if not folder.is_dir():
        return ModelError(f"there is no folder {folder}. Check the path; it should be in diffusers layout.")
    for path in sorted(folder.iterdir()):
        refuse_other_kinds(path)
    which = f" of the variant '{variant}'" if variant else ""
    return ModelError(f"{folder} has no weights{which}. It should have a file that ends with .safetensors.")


def _variant(path: Path) -> str:
    """What stands between the name and the ending, such as fp16 in ``model.fp16.safetensors``."""
    return path.name.removesuffix(".safetensors").partition(".")[2]


def _header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= path.stat().st_size - 8:
                raise ValueError("its header does not fit into it")
            found: dict[str, Any] = json.loads(file.read(length))
            return found, 8 + length
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}. Check the path.") from error
    except ValueError as error:
        raise ModelError(
            f"{path} is not a whole safetensors file. Copy or download it again; nothing was loaded."
        ) from error


def _entry(path: Path, start: int, told: Mapping[str, Any]) -> Entry:
    first, last = told["data_offsets"]
    return Entry(path, told["dtype"], tuple(told["shape"]), start + first, last - first)


def under(found: Contents, prefix: str) -> dict[str, Entry]:
    """Those whose name begins so, without it."""
    return {name.removeprefix(prefix): entry for name, entry in found.items() if name.startswith(prefix)}


def numbers(names: Iterator[str] | Contents, prefix: str) -> list[int]:
    """The numbers that follow a prefix in names, such as those of the blocks, each once."""
    tails = (name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix))
    return sorted({int(tail) for tail in tails if tail.isdigit()})


def kinds() -> dict[str, torch.dtype]:
    """The kinds of numbers that are read and written, as safetensors calls them."""
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }


def _dtype(kind: str) -> torch.dtype:
    known = kinds()
    if kind not in known:
        raise ModelError(f"weights of the kind {kind} are not read here. Use a file in bf16, fp16 or fp8.")
    return known[kind]
