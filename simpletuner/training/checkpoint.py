"""Surviving interruption: checkpoints that appear whole, know what is in them, and are checked before they are used.

A checkpoint is written to a folder with another name, forced to disk, listed with sizes and digests in
``checkpoint_manifest.json``, and then renamed. One that was cut off has no right name, and one that was damaged later
does not match its manifest; neither is ever picked. Rolling checkpoints are saved more often than the others and soon
replaced; they have a limit of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from simpletuner.errors import CheckpointError, ModelError
from simpletuner.models import shards
from simpletuner.models.weight_files import contents
from simpletuner.storage.local import write_whole

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "checkpoint_manifest.json"
STATE = "training_state.json"
_NAME = re.compile(r"checkpoint-(\d+)(-rolling)?")
_LEFT = re.compile(r"\.checkpoint-\d+(-rolling)?\.(partial|removed)|\.[0-9a-f]{16}\.part")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one output folder."""

    folder: Path
    keep: int
    """How many are kept besides rolling ones; 0 keeps all."""
    keep_rolling: int = 1
    """How many rolling ones are kept; 0 keeps all."""
    hours: float = 0
    """For how many hours they are kept, but for the newest; 0 keeps them for ever."""
    clock: Callable[[], float] = time.time
    is_used: Callable[[Path], bool] = lambda path: False
    """Whether somebody still reads a checkpoint, so that it cannot be removed yet."""

    def save(self, step: int, write: Callable[[Path], None], *, rolling: bool = False) -> Path:
        """Write one checkpoint, then remove the oldest ones over the limit.

        Args:
            step: The step that it stands at.
            write: Writes its files into a folder.
            rolling: Whether it is one that is soon replaced.

        Raises:
            CheckpointError: The disk is full or not writable; what was there before is untouched.
        """
        final = self.folder / name_of(step, rolling=rolling)
        partial = self.folder / f".{final.name}.partial"
        try:
            _write_folder(partial, write)
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

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of a step that is not soon replaced."""
        return (self.folder / name_of(step)).is_dir()

    def tidy(self) -> None:
        """Take away what writers and removers that were killed have left behind."""
        for path in [*self.folder.glob(".*"), *self.folder.glob("*/.*.part"), *self.folder.glob("*/*/.*.part")]:
            if path.is_dir() and _LEFT.fullmatch(path.name):
                shutil.rmtree(path)
            elif _LEFT.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def usual_size(self) -> int:
        """How many bytes the newest checkpoint has; 0 where there is none."""
        return sum(path.stat().st_size for newest in self.all()[-1:] for path in _files(newest))

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
        """The checkpoint that `resume_from_checkpoint` stands for: latest, a name, a step, a path, or none.

        Raises:
            CheckpointError: The named one does not exist or is damaged.
        """
        name = (wanted or "none").strip()
        if name.lower() == "none":
            return None
        if name.lower() == "latest":
            return self.newest(notice)
        places = (self.folder / name, self.folder / f"checkpoint-{name}", Path(name))
        path = next((one for one in places if one.is_dir()), None)
        if path is None:
            raise CheckpointError(
                f"resume_from_checkpoint: there is no checkpoint '{name}'. In '{self.folder}' there are: "
                f"{', '.join(one.name for one in self.all()) or 'none'}."
            )
        if reason := damaged(path):
            raise CheckpointError(
                f"resume_from_checkpoint: '{path}' cannot be used: {reason}. Choose another, or latest."
            )
        return path

    def all(self) -> list[Path]:
        """Every checkpoint folder, oldest step first; of one step, the one that is soon replaced first."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        return sorted(found, key=lambda path: (_step(path), not _is_rolling(path)))

    def _prune(self, newest: Path) -> None:
        alike = [path for path in self.all() if path != newest and _is_rolling(path) == _is_rolling(newest)]
        limit = self.keep_rolling if _is_rolling(newest) else self.keep
        over = alike[: max(len(alike) + 1 - limit, 0)] if limit else []
        for path in dict.fromkeys([*over, *self._outdated(newest)]):
            if not self.is_used(path):
                _remove(path)

    def _outdated(self, newest: Path) -> Iterator[Path]:
        since = self.clock() - self.hours * 3600
        for path in self.all() if self.hours else ():
            if path != newest and (path / MANIFEST).is_file() and (path / MANIFEST).stat().st_mtime < since:
                yield path


def name_of(step: int, *, rolling: bool = False) -> str:
    """The name of the folder of a checkpoint."""
    return f"checkpoint-{step}-rolling" if rolling else f"checkpoint-{step}"


def _is_rolling(path: Path) -> bool:
    return path.name.endswith("-rolling")


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def step_of(path: Path | None) -> int:
    """The step that a checkpoint stands at; 0 for none."""
    return 0 if path is None else int(json.loads(read(path, STATE))["global_step"])


def damaged(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None when every file is as it was written."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name, facts in files.items():
            if (found := _facts(path / name)) != facts:
                return f"{name} is not as it was written ({found['bytes']} of {facts['bytes']} bytes)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(path)} is missing"
    except OSError as error:
        return f"it cannot be read ({error})"
    except (KeyError, TypeError, ValueError):
        return f"{MANIFEST} is damaged"
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


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(folder)
    listed = {path.relative_to(folder).as_posix(): _facts(path) for path in _files(folder)}
    write_whole(folder / MANIFEST, json.dumps({"version": 1, "files": listed}, indent=2).encode())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _facts(path: Path) -> dict[str, object]:
    """Size and digest of a file, read piece by piece: some are larger than memory."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "xxh3": hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()}


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


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested `state_dict` as one safetensors file: tensors by path, everything else as JSON in the header.

    One tensor is written at a time: all of them together can be larger than the memory that is left.

    Raises:
        TypeError: A value is neither a tensor nor something JSON can hold.
    """
    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors)
    shards.write_file(path, tensors, {"state": json.dumps(plain)})


def read_state(path: Path) -> Any:
    """What `write_state` wrote.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        tensors = {name: entry.read() for name, entry in contents(path).items()}
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (ModelError, OSError) as error:
        raise CheckpointError(f"'{path.parent}' cannot be resumed: {path.name} cannot be read ({error}).") from error
    return _join(json.loads(header["__metadata__"]["state"]), tensors)


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
