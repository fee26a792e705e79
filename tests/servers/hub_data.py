"""A small Hub with data sets on it: enough of the API for listing and downloading files, whole or in parts."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

COMMIT = "c0ffee" + "0" * 34


class DataHub(ThreadingHTTPServer):
    """The files of each data set, and which of them are gated."""

    daemon_threads = True

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]], gated: frozenset[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repositories = repositories
        self.gated = gated
        self.silent: set[str] = set()
        """Data sets about which nothing is ever answered."""
        self.ends = threading.Event()
        self.sent: Counter[str] = Counter()
        """How many bytes of each file were sent."""

    def environment(self, home: str) -> dict[str, str]:
        """What makes the real client talk to this hub, and keep what it fetches in a folder."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": home,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DataHub

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._answer_request()

    def do_GET(self) -> None:
        self._answer_request()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._answer_request(json.loads(body) if body.startswith("{") else parse_qs(body))

    def _answer_request(self, body: Mapping[str, object] | None = None) -> None:
        path = unquote(urlsplit(self.path).path)
        found = re.match(r"(/api)?/datasets/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/([^/]+)/?(.*))?)?$", path)
        name = found[2] if found else ""
        files = self.server.repositories.get(name)
        if found is None or files is None:
            return self._say({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if name in self.server.silent:
            self.server.ends.wait(30)
        if name in self.server.gated and found[3] not in ("revision", None):
            return self._say({"error": "It is gated"}, 403, {"X-Error-Code": "GatedRepo"})
        if found[4] not in (None, "main", COMMIT):
            return self._say({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if found[1] is None:
            return self._file(f"{name}/{found[5]}", files.get(found[5]))
        if found[3] == "tree":
            return self._tree(files, found[5])
        if found[3] == "paths-info":
            wanted = (body or {}).get("paths", [])
            return self._say([_entry(path, files[path]) for path in wanted if path in files])
        siblings = [{"rfilename": path} for path in files]
        facts = {"private": False, "gated": name in self.server.gated, "tags": [], "downloads": 0, "likes": 0}
        self._say({"id": name, "sha": COMMIT, "siblings": siblings, "cardData": _head(files), **facts})

    def _tree(self, files: Mapping[str, bytes], folder: str) -> None:
        below = f"{folder}/" if folder else ""
        found = [_entry(path, data) for path, data in files.items() if path.startswith(below)]
        if folder and not found:
            return self._say({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        if "recursive=true" not in self.path.lower():
            folders = {path.removeprefix(below).partition("/")[0] for path in files if "/" in path.removeprefix(below)}
            found = [entry for entry in found if "/" not in str(entry["path"]).removeprefix(below)]
            found += [{"type": "directory", "path": below + name, "size": 0, "oid": "0" * 40} for name in folders]
        self._say(found)

    def _file(self, name: str, data: bytes | None) -> None:
        if data is None:
            return self._say({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        end = min(int(wanted[2]) + 1, len(data)) if wanted and wanted[2] else len(data)
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._send(data[start:end], 206 if wanted else 200, headers)
        if self.command == "GET":
            self.server.sent[name] += end - start

    def _say(self, body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send(json.dumps(body).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, data: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _head(files: Mapping[str, bytes]) -> object:
    """What the README says at its head."""
    parts = files.get("README.md", b"").decode().split("---\n")
    return yaml.safe_load(parts[1]) if len(parts) > 2 else None


def _entry(path: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def running(repositories: Mapping[str, Mapping[str, bytes]], gated: frozenset[str] = frozenset()) -> Iterator[DataHub]:
    """A hub on a free port."""
    hub = DataHub(repositories, gated)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ends.set()
        hub.shutdown()
        hub.server_close()
        thread.join()
