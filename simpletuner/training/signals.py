"""What somebody outside asks a run for while it trains: to stop with a checkpoint, or to save one now.

A signal only leaves a wish; the loop looks at it between two steps, when everything that a checkpoint holds belongs
together. A second Ctrl-C does not wait for that.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType


@dataclass
class Wishes:
    """What is asked for and not done yet."""

    stop: int = 0
    """The number of the signal that asked to stop; 0 for none."""
    save: bool = False
    """Whether a checkpoint is asked for now."""
    asked: float = 0.0
    """When it was asked to stop."""
    speaks: bool = False
    """Whether Ctrl-C is answered on the terminal; one of several processes is enough."""

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """Stop after this step; at once when Ctrl-C is pressed again."""
        # A launcher hands on the Ctrl-C that the terminal has sent to all processes anyway: that is one and the same.
        if self.stop == number == signal.SIGINT and time.monotonic() - self.asked > _ONE_PRESS:
            raise KeyboardInterrupt
        if self.speaks and number == signal.SIGINT and not self.stop:
            with suppress(OSError):  # nobody listens
                os.write(_TERMINAL, _HEARD)  # not by print, which may be what was interrupted
        self.stop, self.asked = number, time.monotonic()

    def ask_to_save(self, number: int, frame: FrameType | None) -> None:
        """Save after this step."""
        self.save = True


@contextmanager
def heard(wishes: Wishes) -> Iterator[None]:
    """Signals become wishes inside the ``with``; only the main thread of a program can hear them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asks = {"SIGINT": wishes.ask_to_stop, "SIGTERM": wishes.ask_to_stop, "SIGUSR1": wishes.ask_to_save}
    known = {signal.Signals[name]: ask for name, ask in asks.items() if name in signal.Signals.__members__}
    before = {number: signal.signal(number, ask) for number, ask in known.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_HEARD = b"\nCtrl-C: after this step, the run stops with a checkpoint. Press it again to stop at once, without one.\n"
_TERMINAL = 2
_ONE_PRESS = 0.5
"""Within so many seconds, two signals come from one key press."""
