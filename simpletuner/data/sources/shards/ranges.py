"""Parts of files on web servers: each request asks for a range, and what fails for a moment is asked again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from simpletuner.data.web.connections import shown
from simpletuner.errors import DataError
from simpletuner.storage.retries import Patience, Tries

if TYPE_CHECKING:
    import httpx


class Found(NamedTuple):
    """What a server says about a file."""

    size: int
    version: str


class _Answer(NamedTuple):
    """What came back for one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def total(self) -> int | None:
        """The size of the whole file, where the answer to a part of it says it."""
        told = self.headers.get("Content-Range", "").rpartition("/")[2]
        return int(told) if told.isdecimal() else None

    @property
    def version(self) -> str:
        return (self.headers.get("ETag") or self.headers.get("Last-Modified") or "").strip('"')


class Ranges:
    """Reads files by range; connections are kept open, and redirections are followed once for each file."""

    def __init__(self, headers: Mapping[str, str] | None = None, patience: Patience | None = None) -> None:
        """`headers` are sent to the address itself, and not to another host that it leads to."""
        self._headers = dict(headers or {})
        self._patience = patience or Patience()
        self._led_to: dict[str, str] = {}
        self._known: set[str] = set()  # addresses that have answered before

    def look(self, address: str) -> Found:
        """Size and version of a file."""
        answer = self._ask(address, 0, 1)
        if answer.status == _NO_SUCH_RANGE and answer.total == 0:
            return Found(0, answer.version)
        if answer.status != _PART or answer.total is None:
            raise _refused(address, answer)
        return Found(answer.total, answer.version)

    def fetch(self, address: str, start: int, length: int) -> bytes:
        """A part of a file; fewer bytes only at its end."""
        data = b""
        while len(data) < length:
            answer = self._ask(address, start + len(data), length - len(data))
            if answer.status == _NO_SUCH_RANGE:
                break
            if answer.status != _PART or not answer.body:
                raise _refused(address, answer)
            data += answer.body
            if answer.total is not None and start + len(data) >= answer.total:
                break
        return data

    def whole(self, address: str) -> bytes | None:
        """A small file as a whole; nothing when it is not there."""
        answer = self._ask(address)
        return answer.body if answer.is_success else None

    def mark(self, address: str) -> str:
        """The version of a file that need not be there."""
        answer = self._ask(address, 0, 1)
        return answer.version if answer.is_success else ""

    def _ask(self, address: str, start: int = 0, length: int = 0) -> _Answer:
        """One answer that is not a passing failure; a DataError when none comes in time."""
        import httpx

        tries, trouble = Tries(self._patience, address), ""
        while True:
            try:
                answer = self._answer(address, start, length)
                trouble = f"it answers with status {answer.status}"
                if answer.status not in _PASSING and not self._was_led_astray(address, answer.status):
                    return answer
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise DataError(f"cannot read {shown(address)}: {error}. {_CHECK}") from error
            if not tries.again(self._patience.deadline if address in self._known else self._patience.first_deadline):
                raise DataError(f"cannot read {shown(address)} after {tries.number} tries: {trouble}. {_CHECK}")

    def _answer(self, address: str, start: int, length: int) -> _Answer:
        """What the server says; a whole file that comes in place of a part is not read."""
        there = self._led_to.get(address, address)
        headers = {"Range": f"bytes={start}-{start + length - 1}"} if length else {}
        if urlsplit(there).netloc == urlsplit(address).netloc:
            headers.update(self._headers)
        with self._client.stream("GET", there, headers=headers) as answer:
            self._remember(address, answer)
            is_wanted = _starts_at(answer, start) if length else answer.is_success
            body = _up_to(length or _LARGEST_WHOLE, answer.iter_raw()) if is_wanted else b""
            return _Answer(answer.status_code, answer.headers, body)

    def _remember(self, address: str, answer: httpx.Response) -> None:
        """That an address answers, and where it leads to."""
        if answer.is_success:
            self._known.add(address)
            if answer.history:
                self._led_to[address] = str(answer.url)

    def _was_led_astray(self, address: str, status: int) -> bool:
        """Whether the address that a redirection led to has expired; the next try asks for a new one."""
        return status in _EXPIRED and self._led_to.pop(address, None) is not None

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        patience = self._patience
        return httpx.Client(
            headers={"Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=httpx.Timeout(patience.stall, connect=patience.connect),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
        )


def _starts_at(answer: httpx.Response, start: int) -> bool:
    """Whether an answer is the part that was asked for."""
    return answer.status_code == _PART and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _up_to(length: int, pieces: Iterable[bytes]) -> bytes:
    """What a server sends, but no more than was asked for."""
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) >= length:
            break
    return bytes(data[:length])


def _refused(address: str, answer: _Answer) -> DataError:
    name = shown(address)
    if answer.is_success:
        return DataError(f"{name} cannot be read by range: its server does not send the part it is asked for. {_CHECK}")
    return DataError(
        f"cannot read {name}: it answers with status {answer.status}. {_ADVICE.get(answer.status, _CHECK)}"
    )


_PART = 206
_NO_SUCH_RANGE = 416
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_EXPIRED = {401, 403, 404, 410}
_LARGEST_WHOLE = 2**28
_CHECK = "Check source, and whether this machine reaches it."
_ADVICE = {
    401: "Set hf_token or HF_TOKEN to a token that may read it.",
    403: "Accept its licence on its page, and set hf_token or HF_TOKEN to a token that may read it.",
    404: "Check source and subfolder.",
    410: "Check source and subfolder.",
}
