"""A web server on loopback that can misbehave in every way that image lists meet."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Behaviour = Callable[["Handler"], None]


class Web(ThreadingHTTPServer):
    """Answers each path as it was told to, and counts who asked for what."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("0.0.0.0", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, list[Mapping[str, str]]] = defaultdict(list)
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._answers: dict[str, list[Behaviour]] = {}
        self.ends = threading.Event()
        self.scheme = "http"

    def address(self, path: str, host: str = "127.0.0.1") -> str:
        """Where a path is; every loopback address leads here."""
        return f"{self.scheme}://{host}:{self.server_port}{path}"

    def encrypt(self, certificate: Path, key: Path) -> None:
        """Speak HTTPS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.scheme = "https"

    def serve(self, path: str, *answers: Behaviour) -> str:
        """Answer a path with one thing after another, the last one for ever; returns the address."""
        self._answers[path] = list(answers)
        return self.address(path)

    def answer_for(self, path: str) -> Behaviour:
        """What is due now."""
        with self._lock:
            self.asked[path] += 1
            answers = self._answers.get(path) or [status(404)]
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what these tests are about."""

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Remember how many requests there were at once."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.headers[path].append(dict(self.headers))
        with self.server.counted():
            self.server.answer_for(path)(self)

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def content(data: bytes, kind: str = "image/png") -> Behaviour:
    """A file as it should be."""

    def answer(handler: Handler) -> None:
        handler.start(200, {"Content-Type": kind, "Content-Length": str(len(data))})
        handler.wfile.write(data)

    return answer


def slowly(behaviour: Behaviour, seconds: float) -> Behaviour:
    """The same after a while."""

    def answer(handler: Handler) -> None:
        time.sleep(seconds)
        behaviour(handler)

    return answer


def status(code: int, **headers: str) -> Behaviour:
    """A status without a file; underscores in names of headers are dashes."""

    def answer(handler: Handler) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.start(code, {**named, "Content-Length": "0"})

    return answer


def redirect(to: str, code: int = 302) -> Behaviour:
    """Another address."""
    return status(code, Location=to)


def endless(start: bytes = b"", kind: str = "image/png") -> Behaviour:
    """A file that never ends."""

    def answer(handler: Handler) -> None:
        handler.start(200, {"Content-Type": kind, "Connection": "close"})
        handler.wfile.write(start)
        while not handler.server.ends.is_set():
            handler.wfile.write(bytes(65536))

    return answer


def dripping(data: bytes, seconds: float) -> Behaviour:
    """A file that comes byte by byte, so that nothing ever stands still."""

    def answer(handler: Handler) -> None:
        handler.start(200, {"Content-Type": "image/png", "Content-Length": str(len(data))})
        for byte in data:
            if handler.server.ends.wait(seconds):
                return
            handler.wfile.write(bytes([byte]))

    return answer


def stalled(data: bytes, length: int) -> Behaviour:
    """A file that stops in the middle without an end."""

    def answer(handler: Handler) -> None:
        handler.start(200, {"Content-Type": "image/png", "Content-Length": str(length)})
        handler.wfile.write(data)
        handler.server.ends.wait(30)

    return answer


def truncated(data: bytes, length: int) -> Behaviour:
    """A file whose connection ends before it does."""

    def answer(handler: Handler) -> None:
        handler.start(200, {"Content-Type": "image/png", "Content-Length": str(length)})
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def reset(handler: Handler) -> None:
    """A connection that breaks instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


@contextmanager
def running() -> Iterator[Web]:
    """A server on a free port of every loopback address."""
    server = Web()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ends.set()
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A certificate for a host that nobody knows, and its key; made with the openssl of this machine."""
    path, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(path), "-days", "2", "-subj", f"/CN={host}"]
    subprocess.run([*command, "-addext", f"subjectAltName=IP:{host}"], check=True, capture_output=True)
    return path, key
