"""Where addresses in a list may lead, checked at the moment of connecting."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from servers import web
from servers.web import Web

from simpletuner.data.web.connections import Limits, is_any, is_public, shown
from simpletuner.data.web.downloads import Downloads, name_of
from simpletuner.progress import Recorded
from simpletuner.storage.memory import MemoryStore


@pytest.fixture
def server() -> Iterator[Web]:
    with web.running() as server:
        yield server


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def reason(url: str, *, may_connect: Callable[[str], bool] = is_public) -> str:
    """Why an image was refused; empty when it was not."""
    downloads = Downloads(MemoryStore(), Limits(attempts=1, stall=1.2), workers=1, may_connect=may_connect)
    return downloads.fetch([url], Recorded(), stage="").failures.get(name_of(url), "")


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.5",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_of_this_machine_and_of_private_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"])
def test_this_machine_is_refused_however_it_is_written(server: Web, host: str) -> None:
    server.serve("/a.png", web.content(picture()))
    url = server.address("/a.png", host)
    assert "csv_allow_private_addresses" in reason(url)
    assert not server.asked


def test_this_machine_is_served_when_private_addresses_are_allowed(server: Web) -> None:
    assert not reason(server.serve("/a.png", web.content(picture())), may_connect=is_any)


def test_a_redirect_to_a_private_address_is_refused(server: Web) -> None:
    server.serve("/inside.png", web.content(picture()))
    outside = server.serve("/outside.png", web.redirect(server.address("/inside.png", "127.0.0.2")))
    assert "private network" in reason(outside, may_connect=lambda address: address == "127.0.0.1")
    assert server.asked == {"/outside.png": 1}


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "gopher://x", "data:image/png,AA"])
def test_a_redirect_away_from_the_web_is_refused(server: Web, to: str) -> None:
    assert "not on the web" in reason(server.serve("/a.png", web.redirect(to)), may_connect=is_any)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
def test_encrypted_connections_need_a_certificate_that_is_trusted(
    server: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = web.certificate(tmp_path, "127.0.0.1")
    server.encrypt(certificate, key)
    urls = [server.serve(f"/{number}.png", web.content(picture())) for number in range(3)]
    assert reason(urls[0], may_connect=is_any) == "the host has no valid certificate"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert [reason(url, may_connect=is_any) for url in urls] == [""] * 3
    assert "certificate" in reason(urls[0].replace("127.0.0.1", "127.0.0.2"), may_connect=is_any)
    stalled = server.serve("/stalled.png", web.stalled(picture(), 9999))
    assert reason(stalled, may_connect=is_any) == "the download stands still"


def test_behind_a_proxy_private_addresses_are_refused_before_it_is_asked(
    server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.address(""))
    assert "private network" in reason("http://10.0.0.1/a.png")
    assert not server.asked


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_a_proxy_of_this_machine_is_used(server: Web, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, f"user:pass@127.0.0.1:{server.server_port}")
    server.serve("http://pictures.invalid/a.png", web.content(picture()))
    assert not reason("http://pictures.invalid/a.png")
    assert server.asked == {"http://pictures.invalid/a.png": 1}
    assert server.headers["http://pictures.invalid/a.png"][0]["Proxy-Authorization"] == "Basic dXNlcjpwYXNz"


def test_a_proxy_of_another_kind_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://user:s3cr3t@127.0.0.1:1")
    assert reason("http://pictures.invalid/a.png") == "the proxy of this machine is of kind socks5, only http is served"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:s3cr3t@host:8080/a/b.png?token=s3cr3t#s3cr3t", "https://host:8080/a/b.png"),
        ("http://[::1]:80/a?s3cr3t", "http://[::1]:80/a"),
        ("https://host", "https://host"),
        ("s3cr3t@host/a.png?s3cr3t", "host/a.png"),
        ("http://[user:s3cr3t@host", "an address that cannot be read"),
        ("http://user:s3cr3t@:80/a?s3cr3t", ":80/a"),
    ],
)
def test_addresses_are_shown_without_what_may_be_secret_in_them(url: str, expected: str) -> None:
    assert shown(url) == expected
