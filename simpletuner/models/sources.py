"""Where weights come from: naming what is loaded, and saying clearly why something cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from simpletuner.errors import ModelError

_SAMPLE = 1 << 20


def is_folder(source: str) -> bool:
    """Whether a source is a folder on this machine and not an id on the Hub."""
    return Path(source).expanduser().is_dir()


def looks_like_path(source: str) -> bool:
    """Whether the user meant a path: a Hub id has exactly one slash and starts with a name."""
    return source.startswith((".", "/", "~")) or source.count("/") != 1 or "\\" in source


def fingerprint(source: str, subfolder: str, revision: str | None) -> str:
    """Names the weights of one part: a Hub id with its revision, or what the files of a folder contain.

    Of large local files the size, the beginning and the end are read: a safetensors file begins with the list of its
    tensors, and retrained weights differ at both ends.
    """
    if not is_folder(source):
        return f"{source}@{revision or 'main'}/{subfolder}"
    folder = Path(source).expanduser() / subfolder
    digest = xxhash.xxh3_128()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size}".encode())
        digest.update(_ends(path))
    return f"{subfolder}:{digest.hexdigest()}"


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
        file.seek(max(0, path.stat().st_size - _SAMPLE))
        return start + file.read()


@contextmanager
def loading(part: str, source: str) -> Iterator[None]:
    """Turn a library's failure to load weights into a message that says what to change."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{part} could not be loaded from '{source}': {_reason(error)}. {_advice(source)}") from error


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _advice(source: str) -> str:
    if looks_like_path(source):
        return "Set pretrained_model_name_or_path to a folder in diffusers layout, or to an id on the Hub."
    return (
        "Check the id and the network. For a gated model, accept its licence on its page on the Hub and set HF_TOKEN "
        "to a token that may read it, or set pretrained_model_name_or_path to a local folder."
    )
