"""How long, and how often, to go on asking a place that fails now and then."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from simpletuner.errors import DataError
from simpletuner.seeds import derive


class Unreachable(DataError):
    """A place on the network does not answer, or does not let us in: nothing in it can be read just now.

    This is never the fault of a single file, so no file may be left out because of it.
    """


@dataclass(frozen=True)
class Patience:
    """Limits in seconds for a place on the network; what fails for a moment is asked again within them."""

    deadline: float = 120.0
    """An answer that does not come within this time, over all tries, is a failure."""
    first_deadline: float = 10.0
    """The same for a place that has never been reached: most likely its address is wrong."""
    connect: float = 10.0
    """A connection that is not made within this time is tried again."""
    stall: float = 30.0
    """A connection on which nothing moves for this time is closed and tried again."""
    first_wait: float = 0.2
    """The wait before the second try; each later one is twice as long, with some chance."""
    longest_wait: float = 10.0
    """No wait is longer."""


class Tries:
    """The tries of one request: waits between them, and says when it is too late for another one."""

    def __init__(self, patience: Patience, what: str) -> None:
        """`what` is asked for; two that wait for different things do not come back at the same moment."""
        self._patience = patience
        self._started = time.monotonic()
        # Each thread of each process waits for a time of its own, so that they do not all come back at once.
        self._seed = derive(os.getpid(), "wait", threading.get_ident(), what)
        self.number = 1

    @property
    def seconds(self) -> float:
        """The time since the first try began."""
        return time.monotonic() - self._started

    def again(self, deadline: float, *, at_least: float = 0.0) -> bool:
        """Wait for the next try; or say at once that there is none, because it would be past the deadline.

        Args:
            deadline: The last moment for a try, in seconds since the first one began.
            at_least: What the other side asks us to wait.
        """
        wait = max(self._wait(), at_least)
        if self.seconds + wait > deadline:
            return False
        time.sleep(wait)
        self.number += 1
        return True

    def _wait(self) -> float:
        chance = derive(self._seed, "try", self.number) / 2**63
        grown = self._patience.first_wait * 2.0 ** min(self.number - 1, 30)
        return min(grown, self._patience.longest_wait) * (0.5 + chance / 2)
