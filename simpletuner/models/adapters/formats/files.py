"""LoRA files on disk: read safely whatever program wrote them, and written whole."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.adapters.adapter import FILE_NAME
from simpletuner.models.adapters.formats import FORMATS, decode
from simpletuner.models.adapters.formats.diffusers import SETTINGS
from simpletuner.models.adapters.formats.neutral import TRANSFORMER, Lora

if TYPE_CHECKING:
    from torch import Tensor

PEFT_SETTINGS = "adapter_config.json"
_USUAL = (FILE_NAME, "adapter_model.safetensors")


def read_adapter(path: str | Path) -> Lora:
    """The adapter in a file, or in a folder that holds one, of any format that is known.

    Raises:
        ModelError: The file is missing, damaged or unsafe to open, or holds no LoRA for Flux.
    """
    file = find(Path(path).expanduser())
    tensors, header = read_tensors(file)
    try:
        return decode(tensors, _with_settings(file, header))
    except ModelError as error:
        raise ModelError(f"the adapter '{file}' cannot be used: {error}") from error


def find(path: Path) -> Path:
    """The adapter file that a path means: itself, or the one in a folder."""
    if not path.is_dir():
        return path
    usual = [path / name for name in _USUAL if (path / name).is_file()]
    found = usual[:1] or sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        said = "holds several .safetensors files" if found else "holds no .safetensors file"
        raise ModelError(f"the folder '{path}' {said}. Give the path of the adapter file itself.")
    return found[0]


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its header.

    Raises:
        ModelError: The file is missing, cut off, or of a kind that can run code when it is opened.
    """
    with _opened(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118


def read_shapes(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shapes of the tensors, which are not read, and the header.

    Raises:
        ModelError: As for `read_tensors`.
    """
    with _opened(file) as opened:
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        return shapes, dict(opened.metadata() or {})


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    _refuse_pickle(file)
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the adapter '{file}' is no whole safetensors file: {error}. Fetch or save it anew."
        ) from error


def _refuse_pickle(file: Path) -> None:
    if not file.is_file():
        raise ModelError(f"there is no adapter file '{file}'. Give the path of a .safetensors file.")
    with file.open("rb") as opened:
        start = opened.read(9)
    # The length of a safetensors header, which stands in front of its brace, may begin with the same bytes.
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):
        raise ModelError(
            f"the adapter '{file}' is a pickle, which can run any program when it is opened. Get it as .safetensors, "
            f"or convert it with the program that made it."
        )


def _with_settings(file: Path, header: Mapping[str, str]) -> dict[str, str]:
    """The header with the settings that PEFT writes into a file of their own."""
    beside = file.with_name(PEFT_SETTINGS)
    if SETTINGS in header or not beside.is_file():
        return dict(header)
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(f"'{beside}' is no JSON: {error}. Save the adapter anew.") from error
    return {**header, SETTINGS: json.dumps({f"{TRANSFORMER}.{key}": value for key, value in said.items()})}


def encode(lora: Lora, format: str, header: Mapping[str, str]) -> bytes:
    """An adapter as a file of a format of `FORMATS`; `header` is kept beside what the format itself says."""
    from safetensors.torch import save

    tensors, own = FORMATS[format].write(lora)
    # Parts of one tensor would be refused: safetensors keeps whole ones.
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return ordered(save(whole, metadata={"format": "pt", **header, **_sizes(lora, header), **own}))


def _sizes(lora: Lora, header: Mapping[str, str]) -> dict[str, str]:
    """The rank and alpha that most layers have, where the header tells any: a run that began with a file has its."""
    if "ss_network_dim" not in header:
        return {}
    rank, alpha = Counter((layer.rank, layer.alpha) for layer in lora.layers.values()).most_common(1)[0][0]
    return {"ss_network_dim": str(rank), "ss_network_alpha": f"{alpha:g}"}


# What a file says about its own form, and what was computed from its bytes.
_OF_THE_FORM = ("format", SETTINGS, "ss_network_", "sshs_", "modelspec.hash_sha256")


def kept(header: Mapping[str, str]) -> dict[str, str]:
    """What the header of a file says that stays true in another format."""
    return {name: value for name, value in header.items() if not name.startswith(_OF_THE_FORM)}


def ordered(encoded: bytes) -> bytes:
    """The same safetensors file with its header in a fixed order, so that equal runs give equal files.

    The header then has the hash of the weights that other programs look for too.
    """
    start = 8 + int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8:start])
    digest = hashlib.sha256(encoded[start:]).hexdigest()
    header["__metadata__"] = dict(sorted({**header["__metadata__"], "sshs_model_hash": digest}.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # The tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + encoded[start:]
