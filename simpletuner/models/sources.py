"""Where weights come from: naming what is loaded, and saying clearly why something cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from simpletuner.errors import ModelError
from simpletuner.models.weight_files import SAFE, WEIGHTS, refuse_other_kinds

_SAMPLE = 1 << 20


def is_folder(source: str) -> bool:
    """Whether a source is a folder on this machine and not an id on the Hub."""
    return Path(source).expanduser().is_dir()


def is_file(source: str) -> bool:
    """Whether a source is a single file, as its name says; it may be missing."""
    return source.lower().endswith(WEIGHTS)


def is_local(source: str) -> bool:
    """Whether a source is on this machine and not on the Hub."""
    return is_file(source) or is_folder(source)


def looks_like_path(source: str) -> bool:
    """Whether the user meant a path: a Hub id has exactly one slash and starts with a name."""
    return source.startswith((".", "/", "~")) or source.count("/") != 1 or "\\" in source


def wrong_with(source: str) -> str | None:
    """What is wrong with a source as far as its name and a look at the disk tell; None when it may be right."""
    if is_file(source):
        return _wrong_with_file(Path(source).expanduser())
    if is_folder(source) or not looks_like_path(source):
        return None
    return f"there is no folder '{source}'; give a folder in diffusers layout, a .safetensors file, or an id on the Hub"


def _wrong_with_file(path: Path) -> str | None:
    if path.is_file() or path.suffix.lower() not in SAFE:
        try:
            refuse_other_kinds(path)
        except ModelError as error:
            return str(error).rstrip(".")
        return None
    return f"there is no file '{path}'; check the path"


def fingerprint(source: str, subfolder: str, revision: str | None) -> str:
    """Names the weights of one part: a Hub id with its revision, or what a file or the files of a folder contain.

    Of large local files the size, the beginning and the end are read: a safetensors file begins with the list of its
    tensors, and retrained weights differ at both ends.
    """
    path = Path(source).expanduser()
    if is_file(source):
        return f"{subfolder}:{_digest(path.parent, [path]) if path.is_file() else source}"
    if not is_folder(source):
        return f"{source}@{revision or 'main'}/{subfolder}"
    folder = _part_in(path, subfolder)
    return f"{subfolder}:{_digest(folder, sorted(path for path in folder.rglob('*') if path.is_file()))}"


def _digest(folder: Path, paths: list[Path]) -> str:
    digest = xxhash.xxh3_128()
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size}".encode())
        digest.update(_ends(path))
    return digest.hexdigest()


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
        file.seek(max(0, path.stat().st_size - _SAMPLE))
        return start + file.read()


def part_folder(source: str, subfolder: str, *, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of one part on this machine; a part on the Hub is downloaded, if it was not before.

    A source may also be the part itself, with its config at the top.
    """
    if not is_folder(source):
        return _downloaded(source, subfolder, revision, variant)
    return _part_in(Path(source).expanduser(), subfolder)


def local_config(source: str, subfolder: str, revision: str | None) -> Mapping[str, Any]:
    """The config of a part that is on this machine, or was downloaded before; empty where there is none to be read."""
    path = _part_in(Path(source).expanduser(), subfolder) / "config.json"
    try:
        return dict(json.loads(_downloaded_before(source, subfolder, revision) or path.read_text()))
    except (OSError, ValueError):
        return {}


def _downloaded_before(source: str, subfolder: str, revision: str | None) -> str | None:
    if is_folder(source) or looks_like_path(source):
        return None
    from huggingface_hub import try_to_load_from_cache

    name = f"{subfolder}/config.json" if subfolder else "config.json"
    found = try_to_load_from_cache(source, name, revision=revision)
    return Path(found).read_text() if isinstance(found, str) else None


def _part_in(folder: Path, subfolder: str) -> Path:
    is_part_itself = not (folder / subfolder).is_dir() and (folder / "config.json").is_file()
    return folder if is_part_itself else folder / subfolder


def _downloaded(source: str, subfolder: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download

    prefix = f"{subfolder}/" if subfolder else ""
    infix = f".{variant}" if variant else ""
    wanted = [f"{prefix}{name}" for name in ("*.json", "*.model", "*.txt", f"*{infix}*.safetensors")]
    others = None if variant else [f"{prefix}*.{one}*" for one in ("fp16", "bf16", "fp32", "non_ema")]
    # Neither list may hold a whole pipeline: at the top of a repository lie single files of all its parts.
    top = [] if subfolder else ["*/*"]
    folder = snapshot_download(
        source, revision=revision, allow_patterns=wanted, ignore_patterns=[*(others or ()), *top] or None
    )
    return Path(folder) / subfolder


@contextmanager
def loading(part: str, source: str, *, option: str = "pretrained_model_name_or_path") -> Iterator[None]:
    """Turn a library's failure to load weights into a message that says what to change; `option` names the source."""
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    # The error of the HTTP library that the Hub client uses, which has changed over time: the base of its own.
    network_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{part} could not be loaded from '{source}': {error}") from error
    except (OSError, ValueError, SafetensorError, network_error) as error:
        said = f"{part} could not be loaded from '{source}': {_reason(error)}. {_advice(source, option)}"
        raise ModelError(said) from error


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _advice(source: str, option: str) -> str:
    if looks_like_path(source):
        return "Name a folder in diffusers layout, a .safetensors file, or an id on the Hub."
    return (
        "Check the id and the network. For a gated model, accept its licence on its page on the Hub and set HF_TOKEN "
        f"to a token that may read it, or let {option} name what is on this machine."
    )
