"""Processes that train together: who does what, how long the others wait, and how gradients become one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from simpletuner.errors import ConfigError, Elsewhere, Problem, SimpleTunerError
from simpletuner.training.gradients import add
from simpletuner.training.place import Place

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

PATIENCE = 600.0
"""For how many seconds a process may give no sign of life before the others end too."""


class Group(Protocol):
    """All processes of a run, as one of them sees them."""

    @property
    def place(self) -> Place:
        """Which of them this one is."""

    def every(self, work: Callable[[], T]) -> list[T]:
        """What the work of every process gives, by rank; when it fails in one, it fails in all."""

    def first(self, work: Callable[[], T]) -> T:
        """What the work of the first process gives; the others do not do it, and wait until it is done."""

    def in_turn(self, work: Callable[[], T]) -> T:
        """Every process does the work: the first one, then one of each other machine, then the rest."""

    def all_at_once(self, work: Callable[[], T]) -> T:
        """Every process does the work, and waits until all others have done theirs."""

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of what all of them have as gradients."""

    def copy_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the weights that the first one has."""

    def close(self) -> None:
        """Leave the group."""


@dataclass(frozen=True)
class Alone:
    """A group of one."""

    place: Place = field(default_factory=Place)

    def every(self, work: Callable[[], T]) -> list[T]:
        """Do it."""
        return [work()]

    def first(self, work: Callable[[], T]) -> T:
        """Do it."""
        return work()

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do it."""
        return work()

    def all_at_once(self, work: Callable[[], T]) -> T:
        """Do it."""
        return work()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing to add."""

    def copy_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing to copy."""

    def close(self) -> None:
        """Nothing to leave."""


class Together:
    """A group of several processes, on one machine or more."""

    def __init__(self, place: Place, *, patience: float = PATIENCE) -> None:
        """Join the group; all processes have to.

        Args:
            place: Which of them this one is.
            patience: For how many seconds another process may give no sign of life.

        Raises:
            Elsewhere: The others do not come.
        """
        self._place = place
        self._patience = patience
        self._turns = count()
        with _told("the processes of this run do not find each other"):
            self._store = _joined(place, timedelta(seconds=patience))
        self._local_ranks = [local for _, local in sorted(self._gathered((place.rank, place.local_rank)))]

    @property
    def place(self) -> Place:
        """Which of them this one is."""
        return self._place

    def every(self, work: Callable[[], T]) -> list[T]:
        """What the work of every process gives, by rank; when it fails in one, it fails in all.

        Work that may take longer than the others have patience for is for `first`, `in_turn` or `all_at_once`.
        """
        failure: SimpleTunerError | None = None
        given: T | None = None
        try:
            given = work()
        except SimpleTunerError as error:
            failure = error
        told = self._gathered((given, failure and str(failure)))
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(told):
            if message:
                raise Elsewhere(f"process {rank} ended with: {message}")
        return [one for one, _ in told]  # type: ignore[misc]  # without a message there is a value

    def first(self, work: Callable[[], T]) -> T:
        """What the work of the first process gives; the others do not do it, and wait until it is done."""
        turn = self._next_turn()
        found: list[T] = []
        if self._place.rank == 0:
            with self._at_work(turn):
                found.append(work())
        else:
            self._wait(turn, [0])
        return self._gathered(found)[0][0]

    def in_turn(self, work: Callable[[], T]) -> T:
        """Every process does the work: the first one, then one of each other machine, then the rest.

        What the first of a machine has put on a disk, the others find there, whether or not machines share disks.
        """
        turn, mine = self._next_turn(), self._wave(self._place.rank)
        with self._pulse():
            self._wait(turn, [rank for rank in range(self._place.processes) if self._wave(rank) < mine])
        with self._at_work(turn):
            done = work()
        self._wait(turn, range(self._place.processes))
        return done

    def all_at_once(self, work: Callable[[], T]) -> T:
        """Every process does the work, and waits until all others have done theirs."""
        turn = self._next_turn()
        with self._at_work(turn):
            done = work()
        self._wait(turn, range(self._place.processes))
        return done

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of what all of them have as gradients.

        A weight that some processes did not use counts as zero there; one that none used keeps no gradient.
        """
        add(list(parameters), self._reduce)

    def copy_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the weights that the first one has."""
        import torch.distributed as dist

        with _told("another process has ended, or does not answer any more"):
            for one in parameters:
                dist.broadcast(one.detach(), src=0)

    def close(self) -> None:
        """Leave the group; the first process goes last, for the others hear through it how the run ended."""
        import torch.distributed as dist

        with suppress(Elsewhere):  # those who are gone need no farewell
            self._asked(lambda: self._store.add("left", 1))
            until = time.monotonic() + min(_FAREWELL, self._patience)
            while self._place.rank == 0 and time.monotonic() < until and self._stays():
                time.sleep(0.01)
        dist.destroy_process_group()

    def _stays(self) -> bool:
        """Whether some process has not left yet."""
        return self._store.add("left", 0) < self._place.processes

    def _gathered(self, value: T) -> list[T]:
        import torch.distributed as dist

        found: list[Any] = [None] * self._place.processes
        with _told("another process has ended, or does not answer any more"):
            dist.all_gather_object(found, value)
        return found

    def _reduce(self, tensor: Tensor) -> None:
        import torch.distributed as dist

        with _told("another process has ended, or does not answer any more"):
            dist.all_reduce(tensor)

    def _wave(self, rank: int) -> int:
        return 0 if rank == 0 else 1 if self._local_ranks[rank] == 0 else 2

    def _next_turn(self) -> str:
        return f"turn {next(self._turns)}"

    @contextmanager
    def _at_work(self, turn: str) -> Iterator[None]:
        """The others hear that this process lives, and how its work ended."""
        outcome = "an error that it has printed"
        try:
            with self._pulse():
                yield
            outcome = ""
        except SimpleTunerError as error:
            outcome = str(error)
            raise
        finally:
            with _told("the other processes have ended"):
                self._store.set(f"{turn}/{self._place.rank}", outcome)

    @contextmanager
    def _pulse(self) -> Iterator[None]:
        """A sign of life every few seconds, for work that takes hours."""
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(over,), daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join(timeout=1)

    def _beat(self, over: threading.Event) -> None:
        with suppress(RuntimeError):  # whoever waits for an answer finds out that the first process is gone
            while not over.wait(min(5.0, self._patience / 4)):
                self._store.add(f"pulse/{self._place.rank}", 1)

    def _wait(self, turn: str, ranks: Sequence[int]) -> None:
        """Until these processes have done their work of a turn.

        Raises:
            Elsewhere: One of them failed, or gave no sign of life for too long.
        """
        for rank in ranks:
            if outcome := self._outcome(f"{turn}/{rank}", rank):
                raise Elsewhere(f"process {rank} ended with: {outcome}")

    def _outcome(self, key: str, rank: int) -> str:
        pulse, seen, pause = -1, time.monotonic(), 0.001
        while not self._asked(lambda: self._store.check([key])):
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
            beats = self._asked(lambda: self._store.add(f"pulse/{rank}", 0))
            if beats != pulse:
                pulse, seen = beats, time.monotonic()
            if time.monotonic() - seen > self._patience:
                raise Elsewhere(f"process {rank} has given no sign of life for {self._patience:g} seconds")
        return self._asked(lambda: self._store.get(key)).decode()

    def _asked(self, ask: Callable[[], T]) -> T:
        """What the store of the first process says; torch would wait for ever for a machine that is not reached."""
        told: SimpleQueue[tuple[list[T], str]] = SimpleQueue()

        def listen() -> None:
            try:
                told.put(([ask()], ""))
            except RuntimeError as error:
                told.put(([], str(error).strip().partition("\n")[0]))

        threading.Thread(target=listen, daemon=True).start()
        try:
            said, reason = told.get(timeout=self._patience)
        except Empty:
            raise Elsewhere(f"the first process has not answered for {self._patience:g} seconds") from None
        if not said:
            raise Elsewhere(f"the first process has ended ({reason})")
        return said[0]


@contextmanager
def joined(place: Place | None) -> Iterator[Group]:
    """The group of a process, which has left it after the ``with``."""
    if place is None or place.processes == 1:
        yield Alone()
        return
    group = Together(place)
    try:
        yield group
    finally:
        group.close()


def _joined(place: Place, timeout: timedelta) -> Store:
    """Find the other processes at the address that the launcher put into the environment."""
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    _refuse_without_card(place)
    store, _, _ = next(rendezvous("env://", place.rank, place.processes, timeout=timeout))
    store.set_timeout(timeout)
    cards = torch.cuda.device_count()
    if cards:
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cards else "gloo",
        store=PrefixStore("group", store),
        rank=place.rank,
        world_size=place.processes,
        timeout=timeout,
    )
    return PrefixStore("run", store)


def _refuse_without_card(place: Place) -> None:
    import torch

    if 0 < torch.cuda.device_count() <= place.local_rank:
        cards = torch.cuda.device_count()
        what = f"is too many: this machine has {cards} card{'s' if cards > 1 else ''}, and each process needs its own"
        raise ConfigError("the config", [Problem("num_processes", what)])


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever torch says of a connection is said as what it means for the run."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise Elsewhere(f"{what} ({reason})") from error


_FAREWELL = 10.0
"""Seconds in which the others hear how the work of the first process ended."""
