"""How many processes train together, on which machines and cards: from options, and from a config of accelerate."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import Problem
from simpletuner.training.place import Place

if TYPE_CHECKING:
    from simpletuner.training.options import Distributed


@dataclass(frozen=True)
class Crew:
    """The processes of a run."""

    num_processes: int = 1
    """On all machines together."""
    num_machines: int = 1
    machine_rank: int = 0
    main_process_ip: str = "127.0.0.1"
    main_process_port: int = 0
    """0 for any that is free; on several machines all must know it."""
    gpu_ids: str = "all"
    """The cards of this machine."""

    def here(self) -> list[Place]:
        """The processes of this machine."""
        each = self.num_processes // self.num_machines
        first = self.machine_rank * each
        return [Place(first + number, self.num_processes, number) for number in range(each)]


def crew(options: Distributed) -> Crew:
    """The processes of a run; what is set in the config wins over the arguments and the config of accelerate.

    Raises:
        ValueError: A file or an argument of accelerate cannot be used; the message says why.
    """
    own = {name: options.__dict__[name] for name in _NAMES & options.model_fields_set}
    found = Crew(**{**_filed(options.accelerate_config), **_worded(options.accelerate_extra_args), **own})
    needs_port = found.num_machines > 1 and not found.main_process_port
    return replace(found, main_process_port=options.main_process_port) if needs_port else found


def problems(options: Distributed) -> Iterator[Problem]:
    """What is wrong with the processes that are asked for."""
    for option, read in (("accelerate_config", _filed), ("accelerate_extra_args", _worded)):
        try:
            read(options.__dict__[option])
        except ValueError as error:
            yield Problem(option, str(error))
            return
    found = crew(options)
    if found.num_processes % found.num_machines:
        what = f"is {found.num_processes}, which {found.num_machines} machines cannot share evenly; change one of them"
        yield Problem("num_processes", what)
    if not found.machine_rank < found.num_machines:
        what = f"is {found.machine_rank}; {found.num_machines} machines count from 0 to {found.num_machines - 1}"
        yield Problem("machine_rank", what)
    if found.num_machines > 1 and found.main_process_ip in _THIS_MACHINE:
        what = f"is {found.main_process_ip}, which is a different place on each machine; give the address of the first"
        yield Problem("main_process_ip", what)


def _filed(path: str | None) -> dict[str, Any]:
    """What a config of accelerate says."""
    import yaml

    if path is None:
        return {}
    try:
        given = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"'{path}' cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(given, Mapping):
        raise ValueError(f"'{path}' is no config of accelerate; make one with: accelerate config")
    kind = str(given.get("distributed_type", "NO")).upper()
    if kind not in _SERVED:
        raise ValueError(f"'{path}' has distributed_type {kind}, which is not served; make one for several GPUs")
    return _numbers({name: value for name, value in given.items() if value is not None}, path)


def _worded(text: str | None) -> dict[str, Any]:
    """What arguments of accelerate say."""
    given: dict[str, Any] = {}
    words = _words(text or "")
    while words:
        name, is_joined, value = words.pop(0).removeprefix("--").partition("=")
        if name in _SILENT:
            continue
        if name not in _NAMES | {"gpu_ids"}:
            raise ValueError(f"'--{name}' is not served; served are {', '.join(sorted(_NAMES | {'gpu_ids'}))}")
        if not is_joined and not words:
            raise ValueError(f"'--{name}' has no value")
        given[name] = value if is_joined else words.pop(0)
    return _numbers(given, "it")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"'{text}' cannot be taken apart: {error}") from error


def _numbers(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The ones that matter, with whole numbers where these are meant."""
    found: dict[str, Any] = {name: str(given[name]) for name in ("main_process_ip", "gpu_ids") if name in given}
    for name, least in _LEAST.items():
        if name in given:
            if not str(given[name]).isdigit() or int(given[name]) < least:
                raise ValueError(f"{where} has {name} {given[name]!r}, which is no whole number from {least} on")
            found[name] = int(given[name])
    return found


def variables(found: Crew, place: Place, *, port: int, threads: int) -> dict[str, str]:
    """What a process is told by its environment."""
    cards = {} if found.gpu_ids == "all" else {"CUDA_VISIBLE_DEVICES": found.gpu_ids}
    return {
        **place.variables(),
        "LOCAL_WORLD_SIZE": str(len(found.here())),
        "MASTER_ADDR": found.main_process_ip,
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        **cards,
    }


_LEAST: Mapping[str, int] = {"num_processes": 1, "num_machines": 1, "machine_rank": 0, "main_process_port": 0}
_NAMES = {*_LEAST, "main_process_ip"}
_THIS_MACHINE: Sequence[str] = ("127.0.0.1", "localhost", "::1")
_SERVED: Sequence[str] = ("NO", "MULTI_GPU", "MULTI_CPU")
_SILENT: Sequence[str] = ("multi_gpu", "same_network")
"""Flags of accelerate that only say what is known anyway."""
