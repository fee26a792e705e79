"""Gets one file from the web, within limits, and says why when there is none."""

from __future__ import annotations

import base64
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.request import getproxies, proxy_bypass

from simpletuner.data.web.connections import Connections, Failure, Hope, Limits, Watch, is_any

if TYPE_CHECKING:
    import httpcore
    import httpx

Judge = Callable[[bytes, str], None]
"""Told the first bytes of a file and what the server calls it; raises Failure when the rest is not worth having."""


class Fetcher:
    """Downloads one file after another over connections that stay open; belongs to one thread at a time."""

    def __init__(
        self,
        limits: Limits,
        *,
        may_connect: Callable[[str], bool],
        judge: Judge,
        stop: threading.Event,
        certificates: ssl.SSLContext,
    ) -> None:
        """`may_connect` is asked about every IP address before it is connected to, `stop` ends a download."""
        self._limits = limits
        self._certificates = certificates
        self._may_connect = may_connect
        self._judge = judge
        self._watch = Watch(limits, stop)
        self._proxies = getproxies()
        self._pools: dict[str, httpcore.ConnectionPool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pool in self._pools.values():
            pool.close()

    def get(self, url: str) -> bytes:
        """The whole file; Failure says why there is none."""
        self._watch.start()
        place, credentials = _parsed(url), _credentials(url)
        origin = _origin(place)
        for _ in range(self._limits.redirects + 1):
            with _in_our_words(), self._answer(place, credentials if _origin(place) == origin else {}) as answer:
                if answer.status not in _REDIRECTS:
                    _refuse(answer, self._limits)
                    return self._body(answer)
                place = _next(place, answer)
        raise Failure(f"the address points to others more than {self._limits.redirects} times", Hope.NEXT_RUN)

    @contextmanager
    def _answer(self, place: httpx.URL, credentials: dict[str, str]) -> Iterator[httpcore.Response]:
        import httpcore

        url = httpcore.URL(scheme=place.raw_scheme, host=place.raw_host, port=place.port, target=place.raw_path)
        with self._pool(place).stream("GET", url, headers=[*_HEADERS.items(), *credentials.items()]) as answer:
            yield answer

    def _body(self, answer: httpcore.Response) -> bytes:
        data, is_judged = bytearray(), False
        for part in answer.iter_stream():
            self._watch.check()
            data += part
            if len(data) > self._limits.max_bytes:
                raise _too_large(self._limits)
            if not is_judged and len(data) >= _ENOUGH_TO_JUDGE:
                self._judge(bytes(data[:_ENOUGH_TO_JUDGE]), _header(answer, b"content-type"))
                is_judged = True
        return bytes(data)

    def _pool(self, place: httpx.URL) -> httpcore.ConnectionPool:
        """The connections to where this address is asked for: the host itself, or the proxy of this machine."""
        proxy = "" if proxy_bypass(place.host) else self._proxies.get(place.scheme) or self._proxies.get("all", "")
        if proxy not in self._pools:
            self._pools[proxy] = self._connected(proxy)
        if proxy:  # it looks the name up by itself, so that this is the only place to ask
            self._refuse_private(place)
        return self._pools[proxy]

    def _connected(self, proxy: str) -> httpcore.ConnectionPool:
        import httpcore

        may_connect = is_any if proxy else self._may_connect
        backend: Any = Connections(self._limits, self._watch, may_connect)  # httpcore asks for methods, not for a class
        return httpcore.ConnectionPool(
            ssl_context=self._certificates,
            proxy=_proxy(proxy) if proxy else None,
            max_connections=_OPEN_CONNECTIONS,
            keepalive_expiry=_KEEP_OPEN,
            network_backend=backend,
        )

    def _refuse_private(self, place: httpx.URL) -> None:
        connections = Connections(self._limits, self._watch, self._may_connect)
        try:
            connections.allowed(place.host, place.port or 443)
        except Failure as failure:
            if not failure.is_silent:  # a name that only the proxy knows is the proxy's to judge
                raise


def _proxy(address: str) -> httpcore.Proxy:
    """A proxy as the variables of the machine name it; Failure when it is of a kind that is not served."""
    import httpcore
    import httpx

    try:
        found = httpx.Proxy(address if "://" in address else f"http://{address}")
    except (httpx.InvalidURL, ValueError) as error:
        raise Failure("the proxy of this machine is not written correctly", Hope.NEXT_RUN) from error
    if found.url.scheme not in {"http", "https"}:
        raise Failure(f"the proxy of this machine is of kind {found.url.scheme}, only http is served", Hope.NEXT_RUN)
    url = httpcore.URL(
        scheme=found.url.raw_scheme, host=found.url.raw_host, port=found.url.port, target=found.url.raw_path
    )
    return httpcore.Proxy(url, auth=found.raw_auth)


def trusted() -> ssl.SSLContext:
    """The certificates that are believed: those of the machine where SSL_CERT_FILE names them, else the usual ones."""
    import httpx

    return httpx.create_ssl_context()


def _parsed(url: str) -> httpx.URL:
    import httpx

    try:
        place = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise Failure("the address is not written correctly", Hope.NONE) from error
    return _checked(place)


def _checked(place: httpx.URL) -> httpx.URL:
    if place.scheme not in {"http", "https"}:
        raise Failure("the address points to something that is not on the web", Hope.NEXT_RUN)
    if not place.host:
        raise Failure("the address is not written correctly", Hope.NONE)
    return place


def _next(place: httpx.URL, answer: httpcore.Response) -> httpx.URL:
    """Where a redirect leads."""
    import httpx

    try:
        return _checked(place.join(_header(answer, b"location")))
    except (httpx.InvalidURL, ValueError) as error:
        raise Failure("the address points to another one that is not written correctly", Hope.NEXT_RUN) from error


def _origin(place: httpx.URL) -> tuple[str, str, int | None]:
    return place.scheme, place.host, place.port


def _credentials(url: str) -> dict[str, str]:
    """The user and the password in an address, in the form in which a server takes them."""
    place = _parsed(url)
    if not place.userinfo:
        return {}
    token = base64.b64encode(f"{place.username}:{place.password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def _refuse(answer: httpcore.Response, limits: Limits) -> None:
    """Raise when the answer is not a file, or one that is too large by its own account."""
    if answer.status not in _FILES:
        raise _no_file(answer, limits)
    length = _header(answer, b"content-length")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise _too_large(limits)


def _no_file(answer: httpcore.Response, limits: Limits) -> Failure:
    reason = f"the server answers {_named(answer.status)}"
    if answer.status in _GONE:
        return Failure(reason, Hope.NONE)
    if answer.status not in _BUSY:
        return Failure(reason, Hope.NEXT_RUN)
    wait = _seconds(_header(answer, b"retry-after"))
    if wait > limits.longest_wait:
        return Failure(f"{reason} and asks to wait longer than {limits.longest_wait:g} seconds", Hope.NEXT_RUN)
    return Failure(reason, Hope.NOW, wait=wait)


def _named(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def _seconds(text: str) -> float:
    """How long a server asks to wait, which it says in seconds or as a date; 0 when it says nothing."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _header(answer: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1").strip() for key, value in answer.headers if key.lower() == name), "")


def _too_large(limits: Limits) -> Failure:
    reason = f"the file is larger than csv_max_file_size ({limits.max_bytes:,} bytes)"
    return Failure(reason, Hope.NONE, limit=limits.max_bytes)


@contextmanager
def _in_our_words() -> Iterator[None]:
    """What can go wrong between two machines, as a Failure."""
    import httpcore

    try:
        yield
    except httpcore.ConnectTimeout as error:
        raise Failure("the host does not answer", Hope.NOW, is_silent=True) from error
    except httpcore.ConnectError as error:
        raise _unconnected(error) from error
    except httpcore.TimeoutException as error:
        raise Failure("the download stands still", Hope.NOW) from error
    except (httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
        raise Failure("the connection breaks off", Hope.NOW) from error
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise Failure("the address cannot be asked for", Hope.NEXT_RUN) from error
    except httpcore.ProxyError as error:
        raise Failure(f"the proxy of this machine refuses ({error})", Hope.NEXT_RUN) from error


def _unconnected(error: Exception) -> Failure:
    if isinstance(error.__cause__, ssl.SSLError) or isinstance(error.__context__, ssl.SSLError):
        return Failure("the host has no valid certificate", Hope.NEXT_RUN)
    return Failure("the host cannot be connected to", Hope.NOW, is_silent=True)


_HEADERS = {
    "User-Agent": "simpletuner (image data set)",
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "identity",
}

_FILES = {200, 203}
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {404, 410, 451}
_BUSY = {408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524}

_ENOUGH_TO_JUDGE = 32
_OPEN_CONNECTIONS = 4
_KEEP_OPEN = 15.0
