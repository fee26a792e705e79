"""Connections to addresses that somebody else chose: only where we may go, and only as long as it takes."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpcore


class Hope(Enum):
    """When it makes sense to ask an address again that gave nothing."""

    NOW = "in a moment"
    NEXT_RUN = "in another run"
    NONE = "never"


class Failure(Exception):
    """An address gave nothing that can be used; the reason is the same for all addresses that fail like this."""

    def __init__(self, reason: str, hope: Hope, *, wait: float = 0.0, is_silent: bool = False, limit: int = 0) -> None:
        """`wait` is how many seconds the server asks for, `limit` the size that the file exceeded."""
        super().__init__(reason)
        self.reason = reason
        self.hope = hope
        self.wait = wait
        self.is_silent = is_silent
        self.limit = limit


class Stopped(Exception):
    """The download was given up because the whole run ends."""


@dataclass(frozen=True)
class Limits:
    """How long a download may take and how large it may be."""

    max_bytes: int = 64 * 2**20
    """The largest file that is taken."""
    stall: float = 30.0
    """Seconds without a single byte after which a download is given up."""
    connect: float = 10.0
    """Seconds after which a host that does not answer is given up."""
    total: float = 300.0
    """Seconds after which a download is given up although it still goes on."""
    redirects: int = 5
    """How often an address may point to another one."""
    attempts: int = 4
    """How often an address is asked in one run."""
    backoff: float = 1.0
    """Seconds before the second attempt; each further one waits twice as long."""
    longest_wait: float = 120.0
    """A server that asks for more seconds than this is asked again in the next run only."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet, and not to this machine, its network or its provider."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        return all(map(_is_public, _carried(found)))
    return _is_public(found)


def is_any(address: str) -> bool:
    """Every address will do."""
    return True


def shown(url: str) -> str:
    """An address without what may be secret in it: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "an address that cannot be read"
    if not parts.scheme or not host:
        return url.partition("?")[0].rpartition("@")[2]
    port = parts.netloc.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{':' + port if port else ''}{parts.path}"


class Watch:
    """The clock of one download after another, and the signal that ends them all."""

    def __init__(self, limits: Limits, stop: threading.Event) -> None:
        self._limits = limits
        self._stop = stop
        self._end = 0.0

    def start(self) -> None:
        """A download begins now."""
        self._end = time.monotonic() + self._limits.total

    def check(self) -> None:
        """Raise when the run ends or the download takes too long as a whole."""
        if self._stop.is_set():
            raise Stopped
        if time.monotonic() > self._end:
            raise Failure(f"the download takes longer than {self._limits.total:g} seconds", Hope.NEXT_RUN)

    def within(self, seconds: float) -> float:
        """A time limit that does not go past the end of the download."""
        return max(0.01, min(seconds, self._end - time.monotonic()))


class Connections:
    """What httpcore connects with: an address is looked up once, checked, and connected to as it was checked.

    The check is made on the very address that is connected to, so neither a redirect nor a name that changes its
    meaning between two look-ups leads anywhere else.
    """

    def __init__(self, limits: Limits, watch: Watch, may_connect: Callable[[str], bool]) -> None:
        self._limits = limits
        self._watch = watch
        self._may_connect = may_connect

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address of a host that answers; the arguments are httpcore's."""
        import httpcore

        problem: Exception = Failure("the host is not known", Hope.NEXT_RUN, is_silent=True)
        for address in self.allowed(host, port):
            self._watch.check()
            seconds = self._watch.within(self._limits.connect)
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
            else:
                return _for_httpcore(_Stream(stream, self._watch, self._limits))
        raise problem

    def sleep(self, seconds: float) -> None:
        """Part of httpcore's protocol."""
        time.sleep(seconds)

    def allowed(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to; Failure when there are only others."""
        found = list(dict.fromkeys(_looked_up(host, port)))
        allowed = [address for address in found if self._may_connect(address)]
        if found and not allowed:
            raise Failure(
                "the address leads to this machine or to a private network, which csv_allow_private_addresses would "
                "have to allow",
                Hope.NEXT_RUN,
            )
        return allowed[:_MOST_ADDRESSES]


class _Stream:
    """A connection that is never waited for longer than the limits allow."""

    def __init__(self, stream: httpcore.NetworkStream, watch: Watch, limits: Limits) -> None:
        self._stream = stream
        self._watch = watch
        self._limits = limits

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        import httpcore

        end = time.monotonic() + self._limits.stall
        while True:
            self._watch.check()
            left = end - time.monotonic()
            try:
                return self._stream.read(max_bytes, max(0.01, min(_SLICE, left)))
            except httpcore.ReadTimeout:
                if left <= _SLICE:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._watch.check()
        self._stream.write(buffer, self._watch.within(self._limits.stall))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._watch.check()
        seconds = self._watch.within(self._limits.connect)
        stream = self._stream.start_tls(ssl_context, server_hostname, seconds)
        return _for_httpcore(_Stream(stream, self._watch, self._limits))

    def get_extra_info(self, info: str) -> Any:  # httpcore gives whatever the transport knows
        return self._stream.get_extra_info(info)


def _for_httpcore(stream: _Stream) -> httpcore.NetworkStream:
    """The stream under the type that httpcore declares; it asks for the five methods and never for the class."""
    found: Any = stream
    return found  # type: ignore[no-any-return]  # subclassing would import httpcore with this module


def _looked_up(host: str, port: int) -> Iterator[str]:
    try:
        for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            yield str(found[4][0])
    except (socket.gaierror, UnicodeError) as error:
        passes = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        hope = Hope.NOW if passes else Hope.NEXT_RUN
        raise Failure("the host is not known, or there is no network", hope, is_silent=True) from error


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast


def _carried(address: IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """The IPv4 address that is inside an IPv6 address, in each way that there is; else the address itself."""
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    found = [one for one in inner if one is not None]
    yield from found or [address]


_NAT64 = IPv6Network("64:ff9b::/96")

_SLICE = 1.0
"""Seconds after which a waiting download looks whether the run still goes on."""

_MOST_ADDRESSES = 4
