"""Sends messages in the background, in order, with retries; a service that is down never holds up a step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from simpletuner.progress import Event
from simpletuner.storage.retries import Patience, Tries
from simpletuner.training.webhooks import messages
from simpletuner.training.webhooks.messages import Message, Request
from simpletuner.training.webhooks.options import Webhook

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

_PATIENCE = Patience(first_wait=0.5, longest_wait=15.0)
_DEADLINE, _FAREWELL = 60.0, 10.0
"""For how many seconds one message is tried, and for how many the end of a run waits for all of them."""
_TIMEOUT = 15.0
_MOST_WAITING = 200
_MOMENTARY = frozenset({408, 425, 429, 500, 502, 503, 504})


class Sender:
    """One webhook as a reader of the run's events."""

    def __init__(self, hook: Webhook, *, project: str, run: str, interval: float = 0.0) -> None:
        """`interval` is the least number of seconds between two messages about steps."""
        self._hook = hook
        self._run = run
        self._prefix = hook.message_prefix or project
        self._interval = interval
        self._said_at: dict[str, float] = {}
        self._waiting: Queue[Message] = Queue(_MOST_WAITING)
        self._is_closing = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    def report(self, event: Event) -> None:
        """Queue a message about the event, if there is one to send."""
        said = messages.message(event)
        if said is None or not self._is_wanted(said):
            return
        try:
            self._waiting.put_nowait(said)
        except Full:
            self._warn("so many messages wait that some are left out")

    def close(self) -> None:
        """Wait a moment for what is still to be sent."""
        self._is_closing.set()
        self._thread.join(_FAREWELL)

    def _is_wanted(self, said: Message) -> bool:
        least = self._hook.log_level
        level = "info" if said.is_frequent and self._hook.webhook_type == "raw" else said.level
        if messages.LEVELS.index(level) < messages.LEVELS.index(least):
            return False
        now = time.monotonic()
        if said.is_frequent and now - self._said_at.get(said.kind, -self._interval) < self._interval:
            return False
        self._said_at[said.kind] = now
        return True

    def _work(self) -> None:
        import httpx

        with httpx.Client(timeout=_TIMEOUT, verify=not self._hook.ssl_no_verify) as client:
            while not (self._is_closing.is_set() and self._waiting.empty()):
                try:
                    said = self._waiting.get(timeout=0.1)
                except Empty:
                    continue
                self._send(said, client)

    def _send(self, said: Message, client: httpx.Client) -> None:
        import httpx

        tries, problem, wait = Tries(_PATIENCE, self._host), "", 0.0
        while True:
            try:
                answer = self._post(said, client)
            except (httpx.HTTPError, OSError) as error:
                problem, wait = type(error).__name__, 0.0
            else:
                if answer.is_success:
                    return
                problem, wait = f"it answers {answer.status_code}", _asked(answer)
                if answer.status_code not in _MOMENTARY:
                    break
            if not tries.again(_FAREWELL / 2 if self._is_closing.is_set() else _DEADLINE, at_least=wait):
                break
        self._warn(f"a message could not be sent: {problem}")

    def _post(self, said: Message, client: httpx.Client) -> httpx.Response:
        assert self._hook.address is not None  # the section sees to it
        request = self._written(said)
        return client.post(self._hook.address.get_secret_value(), headers=dict(request.headers), **request.body)

    def _written(self, said: Message) -> Request:
        token = self._hook.auth_token
        written: dict[str, Callable[[Message, str], Request]] = {
            "discord": messages.discord,
            "raw": partial(
                messages.raw, run=self._run, time=time.time(), token=token.get_secret_value() if token else None
            ),
        }
        return written[self._hook.webhook_type](said, self._prefix)

    def _warn(self, problem: str) -> None:
        """Once: a service that is down for hours is no news."""
        if not self._has_failed:
            self._has_failed = True
            logger.warning("the webhook at %s: %s; the run goes on", self._host, problem)

    @property
    def _host(self) -> str:
        """The part of the address that is no secret."""
        address = self._hook.address
        return urlsplit(address.get_secret_value()).hostname or "" if address else ""


def _asked(answer: httpx.Response) -> float:
    """The seconds that a service asks us to wait."""
    try:
        return float(answer.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0
