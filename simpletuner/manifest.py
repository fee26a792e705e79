"""What a run was made with, beside its config: versions, seed, device and data, so that it can be made again."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from simpletuner import __version__
from simpletuner.data.dataset import Dataset
from simpletuner.errors import ConfigError, Problem
from simpletuner.storage.local import LocalStore

if TYPE_CHECKING:
    from simpletuner.training.runtime import Runtime

NAME = "run_manifest.json"


@dataclass(frozen=True)
class Made:
    """What decides the outcome of a run and does not stand in its config; no secrets are in it."""

    simpletuner: str
    python: str
    system: str
    packages: Mapping[str, str]
    device: str
    processes: int
    seed: int
    folder: str
    """Where relative paths of the config start."""
    base: str
    """Names the weights of the base model, and how they are kept."""
    data: Mapping[str, Mapping[str, object]]
    """For each data set how many images it has, a digest of them with their sizes, and one of its captions."""
    started_from: int = 0
    """The step that the run was resumed at last; 0 for none."""
    result: str | None = None
    """A digest of the trained weights, when the run is over."""

    def written(self, folder: Path) -> None:
        """Put it into the output folder."""
        LocalStore(folder).write(NAME, json.dumps(asdict(self), indent=2, sort_keys=True).encode())

    def ended(self, folder: Path, result: Path) -> None:
        """Put it into the output folder again, with a digest of what came of the run."""
        replace(self, result=digest(result)).written(folder)

    def differences(self, other: Made) -> list[str]:
        """What is different in another run, in words."""
        plain = ("simpletuner", "python", "system", "device", "processes", "base")
        pairs = {name: (self.__dict__[name], other.__dict__[name]) for name in plain}
        pairs |= _pairs(self.packages, other.packages)
        pairs |= {f"data set '{id}'": pair for id, pair in _pairs(self.data, other.data).items()}
        return [f"{name} was {one}, is {two}" for name, (one, two) in pairs.items() if one != two]


def made(datasets: Iterable[Dataset], base: str, runtime: Runtime, started_from: int) -> Made:
    """What a run is made with here and now."""
    return Made(
        simpletuner=__version__,
        python=platform.python_version(),
        system=platform.platform(),
        packages=_packages(),
        device=_device(runtime),
        processes=runtime.processes,
        seed=runtime.seed,
        folder=os.getcwd(),
        base=base,
        data={one.id: _facts(one) for one in datasets},
        started_from=started_from,
    )


def read(folder: Path) -> Made:
    """What the run in an output folder was made with.

    Raises:
        ConfigError: It is no output folder of a run.
    """
    try:
        found: dict[str, Any] = json.loads((folder / NAME).read_text())
        return Made(**{name: found[name] for name in Made.__dataclass_fields__ if name in found})
    except (OSError, ValueError, TypeError) as error:
        told = f"cannot be read ({error}); give the output folder of a run"
        raise ConfigError(str(folder), [Problem(NAME, told)]) from error


def digest(path: Path) -> str:
    """A digest of the weights in a file or folder, whatever their headers say about the run."""
    found = xxhash.xxh3_128()
    for file in sorted([path] if path.is_file() else path.rglob("*.safetensors")):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
            header.pop("__metadata__", None)
            found.update(json.dumps([file.name, header], sort_keys=True).encode())
            while piece := opened.read(_PIECE):
                found.update(piece)
    return found.hexdigest()


def _facts(dataset: Dataset) -> dict[str, object]:
    captions = xxhash.xxh3_64()
    for record in dataset.records:
        captions.update(json.dumps(record.captions).encode())
    return {
        "images": len(dataset.records),
        "fingerprint": dataset.fingerprint(),
        "captions": captions.hexdigest(),
    }


def _packages() -> dict[str, str]:
    found = {one.metadata["Name"].lower(): one.version for one in distributions() if one.metadata["Name"]}
    return dict(sorted(found.items()))


def _device(runtime: Runtime) -> str:
    import torch

    if runtime.device.type != "cuda":
        return runtime.device.type
    return f"{torch.cuda.get_device_name(runtime.device)}, CUDA {torch.version.cuda}"


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (one.get(name, "not there"), other.get(name, "not there")) for name in sorted({*one, *other})}


_PIECE = 2**22
