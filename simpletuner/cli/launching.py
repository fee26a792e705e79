"""Starting the processes of a run: signals are passed on to all of them, and when one fails, all end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import click

from simpletuner.training.crew import Crew, variables

LIFELINE = "TRAINING_LIFELINE"
"""Says that standard input ends when the launcher does."""


def launch(crew: Crew, environment: Mapping[str, str]) -> int:
    """Start this command again once for each process of this machine; returns the exit code when all have ended."""
    places = crew.here()
    port = crew.main_process_port or _free_port()
    threads = int(environment.get("OMP_NUM_THREADS") or max((os.cpu_count() or 1) // len(places), 1))
    command = [sys.executable, "-m", "simpletuner", *sys.argv[1:]]
    started = [
        _started(command, {**environment, **variables(crew, place, port=port, threads=threads)}) for place in places
    ]
    names = {process.pid: place.rank for process, place in zip(started, places, strict=True)}
    with passing_on(started):
        return _watched(started, names)


def end_with_the_launcher(environment: Mapping[str, str]) -> None:
    """End this process in good order when whoever launched it is gone."""
    if LIFELINE in environment:
        threading.Thread(target=_listen, daemon=True).start()


def _listen() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # In a session of its own, so that Ctrl-C does not reach it twice: from the terminal, and passed on.
    return subprocess.Popen(
        command, env={**environment, LIFELINE: "stdin"}, stdin=subprocess.PIPE, start_new_session=True
    )


def _watched(running: Sequence[subprocess.Popen[bytes]], ranks: Mapping[int, int]) -> int:
    """Wait for all processes, and see that all end when one fails; returns the exit code of the run."""
    failed = _failed(running)
    if not failed:
        return 0
    _tell(failed, ranks)
    _end(running)
    return max(process.returncode for process in running) if any(one.returncode > 0 for one in running) else 1


def _failed(running: Sequence[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    """Wait for the first failure, or until all have ended well."""
    while not (failed := [process for process in running if process.poll()]):
        if all(process.returncode is not None for process in running):
            break
        time.sleep(_PAUSE)
    return failed


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have all processes end: by themselves, for that another has failed; or else because they are told to."""
    for finish in (subprocess.Popen.terminate, subprocess.Popen.kill):
        until = time.monotonic() + _GRACE
        while any(process.poll() is None for process in running) and time.monotonic() < until:
            time.sleep(_PAUSE)
        for process in running:
            finish(process)
    for process in running:
        process.wait()


def _tell(failed: Sequence[subprocess.Popen[bytes]], ranks: Mapping[int, int]) -> None:
    """A process that fails says why itself; one that is killed cannot."""
    for process in failed:
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            click.echo(
                f"error: process {ranks[process.pid]} was killed ({name}), so the run ends. Often there was "
                f"too little main memory. Start again to go on from the last checkpoint.",
                err=True,
            )


@contextmanager
def passing_on(running: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Signals that reach this process reach all of its processes."""

    def pass_on(number: int, frame: object) -> None:
        for process in running:
            process.send_signal(number)

    known = [signal.Signals[name] for name in _SIGNALS if name in signal.Signals.__members__]
    before = {number: signal.signal(number, pass_on) for number in known}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


_PAUSE = 0.05

_GRACE = 60.0
"""Seconds in which a process may end by itself when another has failed: it may be writing a checkpoint."""

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
