"""Parts of files on web servers: each request asks for a range, and what fails for a moment is asked again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from simpletuner.data.connections import shown
from simpletuner.errors import DataError
from simpletuner.storage.retries import Patience, Tries

if TYPE_CHECKING:
    import httpx


class Found(NamedTuple):
    """What a server says about a file."""

    size: int
    version: str


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
        if answer.status_code == _NO_SUCH_RANGE and answer.headers.get("Content-Range", "").endswith("/0"):
            return Found(0, _version(answer))
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status_code != _PART or not total.isdecimal():
            raise self._refused(address, answer)
        return Found(int(total), _version(answer))

    def fetch(self, address: str, start: int, length: int) -> bytes:
        """A part of a file; fewer bytes only at its end."""
        if length <= 0:
            return b""
        answer = self._ask(address, start, length)
        if answer.status_code == _NO_SUCH_RANGE:
            return b""
        if answer.status_code != _PART:
            raise self._refused(address, answer)
        return bytes(answer.content)

    def whole(self, address: str) -> bytes | None:
        """A small file as a whole; nothing when it is not there."""
        answer = self._ask(address)
        return bytes(answer.content) if answer.is_success else None

    def mark(self, address: str) -> str:
        """The version of a file that need not be there."""
        answer = self._ask(address, 0, 1)
        return _version(answer) if answer.is_success else ""

    def _ask(self, address: str, start: int = 0, length: int = 0) -> httpx.Response:
        """One answer that is not a passing failure; a DataError when none comes in time."""
        import httpx

        tries, trouble = Tries(self._patience, address), ""
        while True:
            try:
                answer = self._answer(address, start, length)
                trouble = f"it answers with status {answer.status_code}"
                if answer.status_code not in _PASSING and not self._was_led_astray(address, answer):
                    return answer
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            except httpx.HTTPError as error:
                raise DataError(f"cannot read {shown(address)}: {error}. {_CHECK}") from error
            if not tries.again(self._patience.deadline if address in self._known else self._patience.first_deadline):
                raise DataError(f"cannot read {shown(address)} after {tries.number} tries: {trouble}. {_CHECK}")

    def _answer(self, address: str, start: int, length: int) -> httpx.Response:
        """What the server says; a whole file that comes in place of a part is not read."""
        there = self._led_to.get(address, address)
        headers = {"Range": f"bytes={start}-{start + length - 1}"} if length else {}
        if urlsplit(there).netloc == urlsplit(address).netloc:
            headers.update(self._headers)
        with self._client.stream("GET", there, headers=headers) as answer:
            if length == 0 or answer.status_code == _PART:
                answer.read()
            if answer.history and answer.is_success:
                self._led_to[address] = str(answer.url)
            if answer.is_success:
                self._known.add(address)
            return answer

    def _was_led_astray(self, address: str, answer: httpx.Response) -> bool:
        """Whether the address that a redirection led to has expired; the next try asks for a new one."""
        return answer.status_code in _EXPIRED and self._led_to.pop(address, None) is not None

    def _refused(self, address: str, answer: httpx.Response) -> DataError:
        status, name = answer.status_code, shown(address)
        if answer.is_success:
            return DataError(f"{name} cannot be read by range: its server sends whole files only. {_CHECK}")
        return DataError(f"cannot read {name}: it answers with status {status}. {_ADVICE.get(status, _CHECK)}")

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


def _version(answer: httpx.Response) -> str:
    mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return str(mark).strip('"')


_PART = 206
_NO_SUCH_RANGE = 416
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_EXPIRED = {401, 403, 404, 410}
_CHECK = "Check source, and whether this machine reaches it."
_ADVICE = {
    401: "Set hf_token or HF_TOKEN to a token that may read it.",
    403: "Accept its licence on its page, and set hf_token or HF_TOKEN to a token that may read it.",
    404: "Check source and subfolder.",
    410: "Check source and subfolder.",
}
