"""Several processes that train together, as a launcher would start them, without loading the libraries each time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from simpletuner.errors import SimpleTunerError
from simpletuner.training.place import Place

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "simpletuner.run",
        "torch.distributed.rendezvous",
        "accelerate",
        "peft",
        "diffusers.models.transformers.transformer_flux",
        "diffusers.models.autoencoders.autoencoder_kl",
        "diffusers.pipelines.flux.pipeline_flux",
        "transformers.models.clip.modeling_clip",
        "transformers.models.t5.modeling_t5",
    ]
)


def together(
    count: int, work: Callable[..., Any], *given: Any, seconds: float = 90, hangs: Sequence[int] = ()
) -> list[Any]:
    """What `work(place, *given)` gives in each of so many processes; a text where it raised an error for users.

    Nothing is waited for from those in `hangs`.
    """
    port = free_port()
    running = []
    for rank in range(count):
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_one, args=(theirs, Place(rank, count, rank), port, work, given), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours))
    found = []
    try:
        for rank, (process, ours) in enumerate(running):
            assert rank in hangs or ours.poll(seconds), f"{process.name} does not end"
            found.append(None if rank in hangs else _received(ours))
        return found
    finally:
        for process, _ in running:
            process.kill()
            process.join()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _received(ours: Connection) -> Any:
    try:
        fine, value = pickle.loads(ours.recv_bytes())
    except EOFError:
        return None  # it was killed
    assert fine, value
    return value


def _one(theirs: Connection, place: Place, port: int, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.environ |= {**place.variables(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    import torch

    torch.set_num_threads(1)
    try:
        outcome = True, work(place, *given)
    except SimpleTunerError as error:
        outcome = True, f"{type(error).__name__}: {error}"
    except BaseException:
        outcome = False, traceback.format_exc()
    theirs.send_bytes(pickle.dumps(outcome))  # plain bytes: tensors would be shared with a process that is gone
