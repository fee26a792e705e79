"""A small Hub: enough of the Hugging Face API for creating a repository and uploading a folder, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_test_token_of_a_small_hub"
OWNER = "tester"


class Hub(ThreadingHTTPServer):
    """State of the hub: files by repository, and what it shall answer instead of doing its work."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.models: dict[str, dict[str, object]] = {}
        self.accepted: set[str] = set()
        """Gated repositories whose licence the owner of the token has accepted."""
        self.fail_with: int | None = None
        self.failures: list[int] = []
        """Answers to the next commits, one after the other, before the hub does its work again."""
        self.retry_after: str | None = None
        self.stall = 0.0
        """How many seconds the next commit waits for its answer."""
        self.commits: list[tuple[str, str, str]] = []
        """Repository, branch and message of each commit."""
        self.branches: list[tuple[str, str]] = []

    def environment(self) -> dict[str, str]:
        """What makes the real client talk to this hub."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def do_POST(self) -> None:
        body = self._body()
        if self.server.fail_with is not None:
            self._answer({"error": "the hub is told to fail"}, self.server.fail_with)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials in Authorization header"}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self._preupload(json.loads(body))
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif self.path == "/lfs/verify":
            self._answer({})
        elif "/commit/" in self.path and self.server.stall:
            stall, self.server.stall = self.server.stall, 0.0
            time.sleep(stall)
            self._answer({"error": "too late"}, 503)
        elif "/commit/" in self.path and self.server.failures:
            after = {} if self.server.retry_after is None else {"Retry-After": self.server.retry_after}
            self._answer({"error": "not now"}, self.server.failures.pop(0), after)
        elif "/commit/" in self.path:
            self._commit(body)
        elif "/branch/" in self.path:
            self.server.branches.append(("/".join(self.path.split("/")[3:5]), self.path.rpartition("/")[2]))
            self._answer({})
        else:
            self._answer({"error": f"unknown path {self.path}"}, 404)

    def do_PUT(self) -> None:
        self.server.large[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            self._answer({"name": OWNER, "type": "user", "auth": {"accessToken": {"role": "write"}}})
        elif self.path.endswith("/auth-check"):
            self._admit(self.path.removeprefix("/api/models/").removesuffix("/auth-check"))
        elif self.path.startswith("/api/models/"):
            self._describe(*self.path.split("?")[0].removeprefix("/api/models/").split("/revision/"))
        else:
            self._answer({"error": "not found"}, 404)

    def _admit(self, name: str) -> None:
        if name in self.server.accepted:
            self._answer({})
        else:
            self._answer({"error": "Access is restricted"}, 403, {"X-Error-Code": "GatedRepo"})

    def _describe(self, name: str, revision: str = "main") -> None:
        facts = self.server.models.get(name)
        if facts is None:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif revision != "main":
            self._answer({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            self._answer({"id": name, "tags": [], "downloads": 0, "likes": 0, "private": False, **facts})

    def _create(self, wanted: dict[str, object]) -> None:
        name = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
        known = name in self.server.files
        self.server.files.setdefault(name, {})
        self.server.private[name] = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self._answer({"url": f"{self.server.address}/{name}", "name": name}, 409 if known else 200)

    def _preupload(self, wanted: dict[str, list[dict[str, object]]]) -> None:
        def mode(path: object) -> str:
            return "lfs" if str(path).endswith((".safetensors", ".png")) else "regular"

        entries = [
            {"path": one["path"], "uploadMode": mode(one["path"]), "shouldIgnore": False} for one in wanted["files"]
        ]
        self._answer({"files": entries})

    def _batch(self, wanted: dict[str, list[dict[str, object]]]) -> None:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {
                    "upload": {"href": f"{self.server.address}/lfs/{one['oid']}"},
                    "verify": {"href": f"{self.server.address}/lfs/verify"},
                },
            }
            for one in wanted["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, body: bytes) -> None:
        repository = "/".join(self.path.split("/")[3:5])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.server.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                data = self.server.large[value["oid"]]
                assert hashlib.sha256(data).hexdigest() == value["oid"]
                self.server.files[repository][value["path"]] = data
            else:
                self.server.commits.append((repository, self.path.rpartition("/")[2], value["summary"]))
        sha = hashlib.sha1(body).hexdigest()
        self._answer({"commitOid": sha, "commitUrl": f"{self.server.address}/{repository}/commit/{sha}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running() -> Iterator[Hub]:
    """A hub on a free port."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
