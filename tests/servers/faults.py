"""A server between a client and a real HTTP server, which does to some requests what bad networks do.

What happens to a request is decided by its own name and by how often it was made, never by the order in which
requests arrive: the same seed gives the same faults, however many threads there are.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

from simpletuner.seeds import derive


class Request(NamedTuple):
    """What is asked for, and how often it has been asked for before."""

    method: str
    path: str
    before: int


FAULTS = ("slow down", "internal error", "truncated", "flipped", "stall", "reset", "lost answer")
"""What can happen: a 503, a 500, half a body, a wrong byte, half a body and then nothing, a connection that is cut
before the request is passed on, and one that is cut after it was. There is also "bare", for a service that says less
than it should, and "one tag", for one that has no checksums and gives every object the same tag."""

Plan = Callable[[Request], str | None]
"""Which fault a request meets; none for most."""


def seeded(seed: int, *, share: float, in_a_row: int = 2, faults: tuple[str, ...] = FAULTS) -> Plan:
    """Faults for a share of all requests; none meets more than `in_a_row` of them."""

    def plan(request: Request) -> str | None:
        if request.before >= in_a_row:
            return None
        number = derive(seed, "fault", *request)
        return faults[number % len(faults)] if derive(number, "meets") / 2**63 < share else None

    return plan


def always(fault: str, *, methods: tuple[str, ...] = ("GET", "PUT", "HEAD", "DELETE", "POST")) -> Plan:
    """The same fault for every request of these kinds."""
    return lambda request: fault if request.method in methods else None


class FaultProxy(ThreadingHTTPServer):
    """Passes requests on, with faults; counts what happened, and what the real server did."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: str, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.target = urlsplit(target).netloc
        self.plan = plan
        self.met = Counter[str]()
        self.done = Counter[tuple[str, str]]()
        self.bytes_sent = 0
        self.ended = threading.Event()
        self._asked = Counter[tuple[str, str]]()
        self._lock = threading.Lock()

    def fault_for(self, method: str, path: str) -> str | None:
        """Decide, and remember."""
        with self._lock:
            request = Request(method, path, self._asked[method, path])
            self._asked[method, path] += 1
            fault = self.plan(request)
            if fault is not None:
                self.met[fault] += 1
            return fault

    def count(self, method: str, path: str) -> None:
        """Remember that the real server did what was asked."""
        with self._lock:
            self.done[method, path] += 1

    def sent(self, count: int) -> None:
        """Count what goes back to clients."""
        with self._lock:
            self.bytes_sent += count

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are expected here."""


@contextmanager
def between(target: str, plan: Plan) -> Iterator[FaultProxy]:
    """A proxy on a free port in front of a server."""
    proxy = FaultProxy(target, plan)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultProxy

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def pass_on(self) -> None:
        """One request, with the fault that the plan has for it."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault_for(self.command, self.path)
        if fault in _ANSWERS:
            self._answer(*_ANSWERS[fault])
        elif fault == "reset":
            self._cut()
        else:
            status, headers, data = self._ask(body)
            self._reply(fault, status, headers, data)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on

    def _ask(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in {"connection", "expect"}:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status < 300:
            self.server.count(self.command, self.path)
        return answer.status, dict(answer.getheaders()), data

    def _reply(self, fault: str | None, status: int, headers: Mapping[str, str], data: bytes) -> None:
        if fault == "lost answer":
            self._cut()
            return
        if fault == "bare":
            status, headers, data = _bare(status, headers, data)
        if fault == "one tag":
            data = re.sub(rb"(<ETag>)[^<]*(</ETag>)", rb"\g<1>&#34;00000000000000000000000000000000-1&#34;\2", data)
        size = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self._head(status, {**headers, "Content-Length": size})
        self._body(fault, b"" if self.command == "HEAD" else data)

    def _body(self, fault: str | None, data: bytes) -> None:
        half = data[: len(data) // 2]
        if fault == "flipped" and data:
            data = half + bytes([data[len(half)] ^ 1 << self.server.met["flipped"] % 8]) + data[len(half) + 1 :]
        self._send(half if fault in {"truncated", "stall"} else data)
        if fault == "stall":
            self.server.ended.wait(60)
        if fault in {"truncated", "stall"}:
            self.close_connection = True

    def _answer(self, status: int, code: str) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>no</Message></Error>'
        data = b"" if self.command == "HEAD" else text.encode()
        self._head(status, {"Content-Type": "application/xml", "Content-Length": str(len(data))})
        self._send(data)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"connection", "transfer-encoding"}:
                self.send_header(name, value)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.server.sent(len(data))

    def _cut(self) -> None:
        """End the connection with a reset, as a router does that has forgotten it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _bare(status: int, headers: Mapping[str, str], data: bytes) -> tuple[int, Mapping[str, str], bytes]:
    """What a simpler service would answer: parts do not say that they are parts, and lists not how they go on."""
    kept = {name: value for name, value in headers.items() if name.lower() != "content-range"}
    listing = re.sub(rb"<NextContinuationToken>.*</NextContinuationToken>", b"", data)
    return 200 if status == 206 else status, kept, listing if data.startswith(b"<?xml") else data


_ANSWERS = {"slow down": (503, "SlowDown"), "internal error": (500, "InternalError")}
