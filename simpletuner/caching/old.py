"""Reading cache files of SimpleTuner and sd-scripts; nothing in them is ever run, whatever they hold."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5, sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

OLD_FILE = re.compile(r"(?:.*/)?(?:[0-9a-f]{64}\.pt|[0-9a-f]{32}-flux\.pt|.*_flux(?:_te)?\.npz)")
"""The names that these files have."""


def notice(place: str) -> str:
    """What is said of a folder with such files in an ordinary run."""
    return (
        f"{place} holds files that SimpleTuner or sd-scripts has encoded; they are not used, because nothing in their "
        f"names tells whether they still fit. `simpletuner cache import {place}` takes over those that do"
    )


class Refused(Exception):
    """An old file is not taken over; the message says why."""


@dataclass(frozen=True)
class OldText:
    """What an old file says of a caption; neither tensor has a batch axis."""

    tokens: Tensor
    pooled: Tensor
    mask: Tensor
    """Which tokens are words."""


def simpletuner_latents(folder: Path, key: str) -> Path:
    """Where SimpleTuner keeps the latents of an image: the extension of the image is not part of the name."""
    image = PurePosixPath(key)
    return folder / image.parent / f"{sha256(image.stem.encode()).hexdigest()}.pt"


def simpletuner_text(folder: Path, prompt: str) -> Path:
    """Where SimpleTuner keeps an encoded caption."""
    return folder / f"{md5(prompt.encode(), usedforsecurity=False).hexdigest()}-flux.pt"


def kohya_latents(folder: Path, key: str, width: int, height: int) -> Path:
    """Where sd-scripts keeps the latents of an image of this size."""
    image = PurePosixPath(key)
    return folder / image.parent / f"{image.stem}_{width:04d}x{height:04d}_flux.npz"


def kohya_text(folder: Path, key: str) -> Path:
    """Where sd-scripts keeps the encoded caption of an image."""
    image = PurePosixPath(key)
    return folder / image.parent / f"{image.stem}_flux_te.npz"


def read_simpletuner_latents(path: Path) -> Tensor:
    """Latents with shape (channels, height, width); Refused when the file holds something else."""
    import torch

    found = _loaded(path)
    found = found.get("latents") if isinstance(found, Mapping) else found
    if not isinstance(found, torch.Tensor):
        raise Refused("it holds no latents")
    return _without_batch(found, 3).float()


def read_simpletuner_text(path: Path) -> OldText:
    """An encoded caption; Refused when the file holds something else."""
    import torch

    found = _loaded(path)
    if isinstance(found, (tuple, list)) and len(found) == 4:
        found = dict(zip(_TEXT_FIELDS, found, strict=True))
    parts = [found.get(name) if isinstance(found, Mapping) else None for name in _TEXT_FIELDS]
    tokens, pooled, _, mask = parts
    if not (isinstance(tokens, torch.Tensor) and isinstance(pooled, torch.Tensor) and isinstance(mask, torch.Tensor)):
        raise Refused("it does not hold prompt_embeds, pooled_prompt_embeds and attention_masks")
    return OldText(_without_batch(tokens, 2), _without_batch(pooled, 1), _without_batch(mask, 1).bool())


def read_kohya_latents(path: Path, height: int, width: int) -> tuple[Tensor, tuple[int, int]]:
    """Latents of this height and width, and the size of the image that they were made from."""
    import torch

    arrays = _arrays(path, (f"latents_{height}x{width}", f"original_size_{height}x{width}"))
    if arrays[0] is None or arrays[1] is None:
        raise Refused("it holds no latents of the size that this config needs")
    size = arrays[1].reshape(-1)
    return torch.from_numpy(arrays[0]).float(), (int(size[0]), int(size[1]))


def read_kohya_text(path: Path) -> OldText:
    """An encoded caption; Refused when the file holds something else, or T5 did not see the padding."""
    import torch

    pooled, tokens, mask, is_masked = _arrays(path, ("l_pooled", "t5_out", "t5_attn_mask", "apply_t5_attn_mask"))
    if pooled is None or tokens is None or mask is None:
        raise Refused("it does not hold l_pooled, t5_out and t5_attn_mask")
    if is_masked is not None and is_masked.any():
        raise Refused("it was made with apply_t5_attn_mask, which gives other numbers")
    return OldText(torch.from_numpy(tokens), torch.from_numpy(pooled), torch.from_numpy(mask).bool())


def _loaded(path: Path) -> Any:
    """What a .pt file holds: anything at all, but no code."""
    import torch

    try:
        data = path.read_bytes()
        if data[:2] == _GZIP:
            data = _unzipped(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, zlib.error, pickle.UnpicklingError) as error:
        raise Refused("it cannot be read as plain tensors") from error


def _unzipped(data: bytes) -> bytes:
    with gzip.open(io.BytesIO(data)) as file:
        found = file.read(_LARGEST + 1)
    if len(found) > _LARGEST:
        raise Refused("it is far larger than an entry of a cache")
    return found


def _arrays(path: Path, names: tuple[str, ...]) -> list[NDArray[Any] | None]:
    """The arrays of an .npz file by their names; nothing for those that it does not have."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return [file.get(name) for name in names]
    except (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise Refused("it cannot be read as plain arrays") from error


def _without_batch(tensor: Tensor, dimensions: int) -> Tensor:
    while tensor.dim() > dimensions and len(tensor) == 1:
        tensor = tensor[0]
    return tensor


_TEXT_FIELDS = ("prompt_embeds", "pooled_prompt_embeds", "time_ids", "attention_masks")
_GZIP = b"\x1f\x8b"
_LARGEST = 1 << 28
