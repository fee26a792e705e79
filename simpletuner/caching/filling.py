"""What both caches do to be filled quickly: work in groups, read ahead, write behind, and keep out of others' way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from simpletuner.caching.tensors import TensorCache

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Group(Generic[T]):
    """What is encoded at once, and the number of things that the encoder shall see."""

    members: Sequence[T]
    shape: int
    """At least as many as there are members; the last one is repeated to get there."""

    def filled(self, things: Sequence[R]) -> list[R]:
        """As many things as the encoder shall see, for those members that are left."""
        return [*things, *([things[-1]] * (self.shape - len(things)))]


def grouped(wanted: Mapping[T, Hashable], is_missing: Callable[[T], bool], size: int) -> Iterator[Group[T]]:
    """What is missing, in groups of at most `size` things of one kind.

    An encoder may round a little differently when it sees more things at once. The size of the group in which a thing
    is encoded therefore depends on everything that is wanted and not on what happens to be missing: a run that was
    killed and started again makes the same bits as one that was not.

    Args:
        wanted: Everything, with its kind; a group holds one kind only.
        is_missing: Whether a thing is still to be made.
        size: How many things make a group.
    """
    by_kind: dict[Hashable, list[T]] = {}
    for thing, kind in wanted.items():
        by_kind.setdefault(kind, []).append(thing)
    for things in by_kind.values():
        full = len(things) - len(things) % size
        for part, shape in ((things[:full], size), (things[full:], len(things) - full)):
            missing = [thing for thing in part if is_missing(thing)]
            for start in range(0, len(missing), shape or 1):
                yield Group(missing[start : start + shape], shape)


def ahead(
    pool: ThreadPoolExecutor, groups: Sequence[Group[T]], prepare: Callable[[T], R], depth: int
) -> Iterator[tuple[Group[T], list[R]]]:
    """The groups with what was prepared of their members; the next ones are prepared in the meantime.

    Nothing is prepared of a member that another process has made by now. Whoever meets a group that is all done turns
    round and goes on from the other end: so two processes that fill one cache share the work.

    Args:
        pool: Where things are prepared.
        groups: In order.
        prepare: What is done with each member; nothing comes back for a member that is made already.
        depth: How many members are worked on ahead of what is asked for.
    """
    waiting, coming, turned = deque(groups), deque[tuple[Group[T], list[Future[R]]]](), False
    while waiting or coming:
        while waiting and (len(coming) < 2 or sum(len(group.members) for group, _ in coming) < depth):
            group = waiting.pop() if turned else waiting.popleft()
            coming.append((group, [pool.submit(prepare, member) for member in group.members]))
        group, futures = coming.popleft()
        results = [future.result() for future in futures]
        turned ^= all(result is None for result in results)
        yield group, results


class Writer:
    """Writes entries behind the encoder's back; what goes wrong is raised at the next entry, or at the end."""

    def __init__(self, *, threads: int = 8, pending: int = 64) -> None:
        """At most `pending` entries wait to be written; then the encoder waits too."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cache writer")
        self._limit = pending
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> Writer:
        return self

    def put(self, cache: TensorCache, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Have an entry written."""
        while self._writing and (self._writing[0].done() or len(self._writing) >= self._limit):
            self._writing.popleft().result()
        self._writing.append(self._pool.submit(cache.put, key, tensors))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is written; what was encoded stays, also when the run ends with an error."""
        self._pool.shutdown(wait=True)
        if error is None:
            for one in self._writing:
                one.result()
