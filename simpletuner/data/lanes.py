"""The same work on many files at once, with the results in order: for places where each answer takes its time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def together(lanes: int, work: Callable[[A], B], things: Sequence[A]) -> Iterator[B]:
    """The result of `work` for each thing, in order; what goes wrong is raised where it is due.

    Args:
        lanes: How many things are worked on at once.
        work: Called in other threads when there is more than one lane.
        things: What to work on; only a few are ahead of the result that is asked for.
    """
    if lanes <= 1:
        yield from map(work, things)
        return
    pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
    try:
        running: deque[Future[list[B]]] = deque()
        for start in range(0, len(things), _EACH):
            running.append(pool.submit(_all, work, things[start : start + _EACH]))
            if len(running) > 2 * lanes:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _all(work: Callable[[A], B], things: Sequence[A]) -> list[B]:
    return [work(thing) for thing in things]


_EACH = 4
