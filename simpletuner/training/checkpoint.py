"""Surviving interruption: checkpoints that appear whole, know what is in them, and are checked before they are used.

A checkpoint is written to a folder with another name, forced to disk, listed with sizes and digests in
``checkpoint_manifest.json``, and then renamed. One that was cut off has no right name, and one that was damaged later
does not match its manifest; neither is ever picked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from simpletuner.errors import CheckpointError
from simpletuner.storage.local import write_whole

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "checkpoint_manifest.json"
STATE = "training_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one output folder."""

    folder: Path
    keep: int
    """How many are kept; 0 keeps all."""

    def save(self, step: int, files: Mapping[str, bytes]) -> Path:
        """Write one checkpoint, then remove the oldest ones over the limit.

        Raises:
            CheckpointError: The disk is full or not writable; what was there before is untouched.
        """
        final = self.folder / f"checkpoint-{step}"
        partial = self.folder / f".{final.name}.partial"
        try:
            _write_folder(partial, files)
            if final.exists():
                _remove(final)
            partial.rename(final)
            _sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to '{self.folder}': {error}. Free some space, "
                f"lower checkpoints_total_limit or choose another output_dir; earlier checkpoints are unharmed."
            ) from error
        self._prune(final)
        return final

    def set_aside(self, after: int) -> list[str]:
        """Take the name of every checkpoint of a later step, which belongs to a run that is not gone on with."""
        late = [path for path in self.all() if _step(path) > after]
        for path in late:
            aside = path.with_name(f"{path.name}.superseded")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        return [path.name for path in late]

    def newest(self, notice: Callable[[str], None]) -> Path | None:
        """The newest checkpoint that is complete; `notice` is told about each that is not."""
        for path in reversed(self.all()):
            damage = damaged(path)
            if damage is None:
                return path
            notice(f"{path.name} is passed over: {damage}")
        return None

    def chosen(self, wanted: str | None, notice: Callable[[str], None]) -> Path | None:
        """The checkpoint that `resume_from_checkpoint` stands for: latest, a name, a path, or none.

        Raises:
            CheckpointError: The named one does not exist or is damaged.
        """
        name = (wanted or "none").strip()
        if name.lower() == "none":
            return None
        if name == "latest":
            return self.newest(notice)
        path = next((one for one in (self.folder / name, Path(name)) if one.is_dir()), None)
        if path is None:
            raise CheckpointError(
                f"resume_from_checkpoint: there is no checkpoint '{name}' in '{self.folder}'. There are: "
                f"{', '.join(one.name for one in self.all()) or 'none'}."
            )
        if reason := damaged(path):
            raise CheckpointError(
                f"resume_from_checkpoint: '{path}' cannot be used: {reason}. Choose another, or latest."
            )
        return path

    def all(self) -> list[Path]:
        """Every checkpoint folder, oldest step first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)

    def _prune(self, newest: Path) -> None:
        others = [path for path in self.all() if path != newest]
        for path in others[: max(len(others) + 1 - self.keep, 0)] if self.keep else []:
            _remove(path)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def step_of(path: Path | None) -> int:
    """The step that a checkpoint stands at; 0 for none."""
    return 0 if path is None else int(json.loads(read(path, STATE))["global_step"])


def damaged(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None when every file is as it was written."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name, facts in files.items():
            data = (path / name).read_bytes()
            if len(data) != facts["bytes"] or _digest(data) != facts["xxh3"]:
                return f"{name} is not as it was written ({len(data)} of {facts['bytes']} bytes)"
    except (OSError, KeyError, ValueError) as error:
        return f"it is incomplete ({error})"
    return None


def read(path: Path, name: str) -> bytes:
    """One file of a checkpoint.

    Raises:
        CheckpointError: The checkpoint has no such file.
    """
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be resumed: {name} cannot be read ({error}).") from error


def seed_of(path: Path) -> int:
    """The seed of the run that made a checkpoint."""
    return int(json.loads(read(path, STATE))["seed"])


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        write_whole(folder / name, data)
    listed = {name: {"bytes": len(data), "xxh3": _digest(data)} for name, data in sorted(files.items())}
    write_whole(folder / MANIFEST, json.dumps({"version": 1, "files": listed}, indent=2).encode())


def _remove(path: Path) -> None:
    """Take a checkpoint away: first its name, so that being interrupted leaves no half of it under that name."""
    gone = path.with_name(f".{path.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(data: bytes) -> str:
    return xxhash.xxh3_128(data).hexdigest()


def encode_state(state: Mapping[str, Any]) -> bytes:
    """A nested `state_dict` as one safetensors file: tensors by path, everything else as JSON in the header.

    Raises:
        TypeError: A value is neither a tensor nor something JSON can hold.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors)
    encoded: bytes = save(tensors, metadata={"state": json.dumps(plain)})
    return encoded


def decode_state(data: bytes) -> Any:
    """The inverse of `encode_state`."""
    from safetensors.torch import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return _join(json.loads(header["__metadata__"]["state"]), load(data))


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        # JSON turns the numbers that name parameters into text, so keys keep their kind beside them.
        return {"items": [[key, _split(one, f"{path}/{key}", tensors)] for key, one in value.items()]}
    if isinstance(value, (list, tuple)):
        parts = [_split(one, f"{path}/{number}", tensors) for number, one in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": parts}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"{path} is a {type(value).__name__}, which a checkpoint cannot hold")


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "items":
        return {key: _join(one, tensors) for key, one in inner}
    if kind == "value":
        return inner
    parts = [_join(one, tensors) for one in inner]
    return tuple(parts) if kind == "tuple" else parts
