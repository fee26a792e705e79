"""One parcel to the Hub in one commit: what fails for a moment is tried again, everything else says what to do.

Sending a parcel twice leaves the repository as sending it once: the Hub leaves out what it has already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from simpletuner.errors import PublishError
from simpletuner.storage.retries import Patience, Tries
from simpletuner.training.publishing.outbox import Label, Outbox, Parcel

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

_PATIENCE = Patience(first_wait=0.5, longest_wait=30.0)
_STALL = 120.0
_MOMENTARY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be another one a moment later."""

_ADVICE = {
    401: "Set HF_TOKEN to a token that may write, or run: hf auth login.",
    402: "The storage of the account is used up: free some, or choose another hub_model_id.",
    403: "The token may not write there, or the storage is used up: use one that may, or another hub_model_id.",
    404: "Check hub_model_id.",
    413: "The files are larger than the Hub takes.",
    429: "The Hub wants fewer uploads for a while.",
}


class Unanswered(PublishError):
    """The Hub could not be reached, or says that it cannot take the parcel now."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        """`wait` is how many seconds the Hub wants us to wait."""
        super().__init__(message)
        self.wait = wait


def deliver_waiting(
    outbox: Outbox, deadline: Callable[[], float], *, stall: float = _STALL
) -> Iterator[tuple[Label, str] | PublishError]:
    """Send what waits, oldest first; yields what arrived and where, or why it did not.

    On the way to one place none overtakes another, for a later one holds newer weights; what is refused there does not
    hold up what goes elsewhere.
    """
    refused: set[tuple[str, str | None]] = set()
    for parcel in outbox.waiting():
        try:
            label = parcel.label
        except PublishError as error:
            yield error
            continue
        place = (label.repository, label.branch)
        if place in refused:
            continue
        try:
            address = deliver(parcel, deadline(), stall=stall)
        except Unanswered as error:
            yield error
            return
        except PublishError as error:
            refused.add(place)
            yield error
        else:
            outbox.done(parcel)
            yield label, address


def deliver(parcel: Parcel, deadline: float, *, stall: float = _STALL) -> str:
    """Upload a parcel; returns the address of the repository.

    Args:
        parcel: What is uploaded.
        deadline: For how many seconds a Hub that does not take it is asked again.
        stall: A connection on which nothing moves for so many seconds is given up.

    Raises:
        PublishError: The Hub refused, or could not be reached in time.
    """
    tries = Tries(_PATIENCE, parcel.label.repository)
    while True:
        try:
            with _gives_up(stall):
                return _sent(parcel)
        except Unanswered as error:
            if not tries.again(deadline, at_least=error.wait):
                raise


@contextmanager
def _gives_up(seconds: float) -> Iterator[None]:
    """The client of the Hub waits for ever for an answer unless it is told not to."""
    from huggingface_hub import get_session

    session = get_session()
    before = session.timeout
    session.timeout = seconds
    try:
        yield
    finally:
        session.timeout = before


def _sent(parcel: Parcel) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return _commit(HfApi(), parcel)
    except HfHubHTTPError as error:
        raise _refused(parcel, error) from error
    except Exception as error:  # an upload is somebody else's code and network: whatever fails, the files are safe
        raise Unanswered(_told(parcel, error)) from error


def _commit(api: HfApi, parcel: Parcel) -> str:
    from huggingface_hub import CommitOperationAdd

    label = parcel.label
    created = api.create_repo(label.repository, private=label.private, exist_ok=True)
    if label.branch:
        api.create_branch(created.repo_id, branch=label.branch, exist_ok=True)
    adding = [CommitOperationAdd(name, str(path)) for name, path in parcel.files.items()]
    api.create_commit(created.repo_id, adding, commit_message=label.message, revision=label.branch)
    return str(created)


def _refused(parcel: Parcel, error: HfHubHTTPError) -> PublishError:
    status = error.response.status_code
    message = _told(parcel, error, _ADVICE.get(status, ""))
    return Unanswered(message, _asked(error)) if status in _MOMENTARY else PublishError(message)


def _asked(error: HfHubHTTPError) -> float:
    """The seconds that the Hub asks us to wait; it may also name a date, which is left to the usual waits."""
    text = str(error.response.headers.get("Retry-After", ""))
    return float(text) if text.isdecimal() else 0.0


def _told(parcel: Parcel, error: Exception, advice: str = "") -> str:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"'{parcel.label.repository}' could not be uploaded: {reason} {advice}".strip()
