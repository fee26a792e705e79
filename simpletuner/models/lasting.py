"""Something that is opened where it is needed, and may stay open until it is needed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Lasting(Generic[T]):
    """Opens something for a ``with``; what stays is opened once, and closed by `close`."""

    def __init__(self, opened: Callable[[], AbstractContextManager[T]], *, stays: bool) -> None:
        """`opened` opens it; `stays` keeps it for the next time."""
        self._opened = opened
        self._stays = stays
        self._stack = ExitStack()
        self._kept: list[T] = []

    @contextmanager
    def __call__(self) -> Iterator[T]:
        """The thing itself."""
        if not self._stays:
            with self._opened() as found:
                yield found
            return
        if not self._kept:
            self._kept.append(self._stack.enter_context(self._opened()))
        yield self._kept[0]

    def close(self) -> None:
        """Close what stayed open."""
        self._kept.clear()
        self._stack.close()
