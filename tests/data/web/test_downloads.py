"""Downloads from a real server that does everything wrong that servers do."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from servers import web
from servers.web import Web

from simpletuner.data.web.connections import Limits, is_any
from simpletuner.data.web.downloads import Downloads, key_of, name_of, suffix_of
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, Recorded, StageStarted
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore
from simpletuner.storage.store import Store

QUICK = Limits(max_bytes=200_000, stall=0.5, connect=1.0, total=5.0, backoff=0.02, longest_wait=3.0)


@pytest.fixture
def server() -> Iterator[Web]:
    with web.running() as server:
        yield server


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def picture(format: str = "PNG", colour: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    noise = hashlib.shake_128(bytes([colour])).digest(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, noise).save(buffer, format)
    return buffer.getvalue()


PICTURE = picture()


def outcome(url: str, store: Store | None = None, limits: Limits = QUICK) -> str:
    """The kind of the image that came, or else why none came."""
    downloads = Downloads(store or MemoryStore(), limits, workers=2, may_connect=is_any)
    found = downloads.fetch([url], Recorded(), stage="")
    assert found.files == downloads.files()
    assert (name_of(url) in found.files) != (name_of(url) in found.failures)
    return found.failures.get(name_of(url)) or Path(found.files[name_of(url)].key).suffix


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI"])
def test_an_image_is_kept_as_it_came_with_the_ending_of_its_content(server: Web, format: str) -> None:
    data, store = picture(format), MemoryStore()
    url = server.serve("/without-an-ending", web.content(data, "application/octet-stream"))
    suffix = outcome(url, store)
    assert store.read(key_of(name_of(url), suffix)) == data
    assert Image.registered_extensions()[suffix] == format


def test_addresses_with_the_same_file_name_do_not_collide(server: Web) -> None:
    pictures = {folder: picture(colour=folder) for folder in range(5)}
    urls = [server.serve(f"/{folder}/a.png", web.content(data)) for folder, data in pictures.items()]
    store = MemoryStore()
    downloads = Downloads(store, QUICK, may_connect=is_any)
    downloads.fetch(urls, Recorded(), stage="")
    assert [store.read(key_of(name_of(url), ".png")) for url in urls] == list(pictures.values())


def test_redirects_are_followed(server: Web) -> None:
    server.serve("/end", web.content(PICTURE))
    server.serve("/second", web.redirect("end", 307))
    assert outcome(server.serve("/first", web.redirect(server.address("/second"), 301))) == ".png"


def test_a_loop_of_redirects_ends(server: Web) -> None:
    server.serve("/b", web.redirect("/a"))
    assert "points to others more than 5 times" in outcome(server.serve("/a", web.redirect("/b")))
    assert server.asked["/a"] + server.asked["/b"] == 6


@pytest.mark.parametrize("code", [404, 410])
def test_what_is_gone_is_asked_for_once_and_never_again(server: Web, code: int) -> None:
    url, store = server.serve("/gone", web.status(code)), MemoryStore()
    assert str(code) in outcome(url, store)
    assert str(code) in outcome(url, store)
    assert server.asked["/gone"] == 1


def test_what_is_forbidden_is_asked_for_again_in_the_next_run(server: Web) -> None:
    url, store = server.serve("/secret", web.status(403), web.content(PICTURE)), MemoryStore()
    assert outcome(url, store) == "the server answers 403 (Forbidden)"
    assert outcome(url, store) == ".png"


def test_a_busy_server_is_asked_again_after_the_time_it_asks_for(server: Web) -> None:
    url = server.serve("/busy", web.status(429, Retry_After="1"), web.content(PICTURE))
    start = time.monotonic()
    assert outcome(url) == ".png"
    assert time.monotonic() - start >= 1
    assert server.asked["/busy"] == 2


def test_while_a_host_rests_nothing_else_is_asked_of_it(server: Web) -> None:
    server.serve("/busy", web.status(429, Retry_After="1"), web.content(PICTURE))
    others = [server.serve(f"/{number}", web.content(PICTURE)) for number in range(5)]
    downloads = Downloads(MemoryStore(), QUICK, workers=1, may_connect=is_any)
    start = time.monotonic()
    downloads.fetch([server.address("/busy"), *others], Recorded(), stage="")
    assert len(downloads.files()) == 6
    assert time.monotonic() - start >= 1


def test_a_server_that_asks_for_too_much_patience_is_asked_again_in_the_next_run(server: Web) -> None:
    url, store = server.serve("/busy", web.status(503, Retry_After="900"), web.content(PICTURE)), MemoryStore()
    assert "asks to wait longer than 3 seconds" in outcome(url, store)
    assert outcome(url, store) == ".png"


@pytest.mark.parametrize(
    "trouble",
    [
        web.status(503),
        web.status(500),
        web.reset,
        web.truncated(PICTURE[:1000], len(PICTURE)),
        web.stalled(PICTURE[:1000], len(PICTURE)),
    ],
    ids=["503", "500", "reset", "truncated", "stalled"],
)
def test_trouble_that_passes_is_waited_for(server: Web, trouble: web.Behaviour) -> None:
    store = MemoryStore()
    url = server.serve("/a.png", trouble, trouble, web.content(PICTURE))
    assert outcome(url, store) == ".png"
    assert store.read(key_of(name_of(url), ".png")) == PICTURE


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (web.status(503), "the server answers 503 (Service Unavailable)"),
        (web.reset, "the connection breaks off"),
        (web.truncated(PICTURE[:1000], len(PICTURE)), "the connection breaks off"),
        (web.stalled(PICTURE[:1000], len(PICTURE)), "the download stands still"),
    ],
    ids=["503", "reset", "truncated", "stalled"],
)
def test_trouble_that_stays_ends_after_some_attempts_and_leaves_nothing(
    server: Web, tmp_path: Path, trouble: web.Behaviour, reason: str
) -> None:
    limits = Limits(stall=0.2, attempts=3, backoff=0.01)
    assert outcome(server.serve("/a.png", trouble), LocalStore(tmp_path), limits) == reason
    assert server.asked["/a.png"] == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "image/jpeg"])
def test_a_web_page_instead_of_an_image_is_refused_whatever_it_is_called(server: Web, kind: str) -> None:
    page = b"<!DOCTYPE html><html><body>You need to log in to see this picture.</body></html>"
    url, store = server.serve("/photo.jpg", web.content(page, kind)), MemoryStore()
    assert outcome(url, store) == "the address gives a web page or text instead of an image"
    assert outcome(url, store) != ".jpg"
    assert server.asked["/photo.jpg"] == 1


def test_an_endless_web_page_is_not_read_to_its_limit(server: Web) -> None:
    url = server.serve("/photo.jpg", web.endless(b"<html>" + b" " * 100, "text/html"))
    assert "web page" in outcome(url, limits=Limits(max_bytes=10**12))


@pytest.mark.parametrize("data", [b"", b"no", b"\x89PNG\r\n\x1a\nnot really a picture at all, but it begins like one"])
def test_what_only_looks_like_an_image_is_refused(server: Web, data: bytes) -> None:
    assert "no image" in outcome(server.serve("/a.png", web.content(data)))


def test_a_decompression_bomb_is_refused(server: Web) -> None:
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00\0\0\0\0"
    reason = outcome(server.serve("/a.png", web.content(head + b"\0\0\0\0IEND\xaeB`\x82")))
    assert "it claims to have 60000x60000 pixels" in reason


def test_an_endless_file_is_cut_at_the_limit(server: Web) -> None:
    url = server.serve("/a.png", web.endless(PICTURE))
    assert outcome(url) == "the file is larger than csv_max_file_size (200,000 bytes)"


def test_a_file_that_says_it_is_too_large_is_not_downloaded(server: Web) -> None:
    url = server.serve("/a.png", web.stalled(PICTURE, 200_001))
    assert "larger than csv_max_file_size" in outcome(url)


def test_a_higher_limit_gives_a_large_file_another_chance(server: Web) -> None:
    url, store = server.serve("/a.png", web.content(PICTURE)), MemoryStore()
    assert "larger than" in outcome(url, store, Limits(max_bytes=1000))
    assert "larger than" in outcome(url, store, Limits(max_bytes=900))
    assert server.asked["/a.png"] == 1
    assert outcome(url, store, Limits(max_bytes=100_000)) == ".png"


def test_a_download_that_never_stands_still_ends_at_its_total_limit(server: Web) -> None:
    url = server.serve("/a.png", web.dripping(PICTURE, 0.05))
    start = time.monotonic()
    assert outcome(url, limits=Limits(stall=1, total=0.5)) == "the download takes longer than 0.5 seconds"
    assert time.monotonic() - start < 0.05 * len(PICTURE) / 2


def test_headers_that_never_end_end_at_the_total_limit(server: Web) -> None:
    def endless_headers(handler: web.Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not handler.server.ends.wait(0.05):
            handler.wfile.write(b"x")

    url = server.serve("/a.png", endless_headers)
    assert "takes longer than 0.5 seconds" in outcome(url, limits=Limits(stall=1, total=0.5))


def test_nobody_at_home_is_a_reason(server: Web) -> None:
    limits = Limits(attempts=2, backoff=0.01)
    assert outcome("http://127.0.0.1:1/a.png", limits=limits) == "the host cannot be connected to"
    assert "the host is not known" in outcome("http://nowhere.invalid/a.png", limits=limits)


def test_a_host_that_is_silent_is_given_up_without_asking_for_every_image(server: Web) -> None:
    urls = [f"http://127.0.0.1:1/{number}.png" for number in range(50)]
    good = [server.serve(f"/{number}", web.content(PICTURE)).replace("127.0.0.1", "127.0.0.2") for number in range(3)]
    downloads = Downloads(MemoryStore(), Limits(attempts=2, backoff=0.01), workers=4, may_connect=is_any)
    found = downloads.fetch([*urls, *good], Recorded(), stage="")
    reasons = [found.failures[name_of(url)] for url in urls]
    assert reasons.count("the host did not answer several times") > 30
    assert set(found.files) == set(map(name_of, good))


@pytest.mark.parametrize("url", ["http://", "http:///a.png", "https://exa mple/\x00", "http://a:port/b.png"])
def test_what_is_no_address_is_a_reason(url: str) -> None:
    assert "not written correctly" in outcome(url)


def test_user_and_password_in_an_address_are_used_there_and_nowhere_else(server: Web) -> None:
    server.serve("/elsewhere", web.content(PICTURE))
    server.serve("/here", web.redirect(server.address("/elsewhere", "127.0.0.3")))
    url = server.serve("/first", web.redirect("/here")).replace("http://", "http://user:s3cr3t@")
    assert outcome(url) == ".png"
    assert server.headers["/first"][0]["Authorization"] == "Basic dXNlcjpzM2NyM3Q="
    assert "Authorization" in server.headers["/here"][0]
    assert "Authorization" not in server.headers["/elsewhere"][0]


def test_downloads_run_at_once_but_never_more_than_allowed(server: Web) -> None:
    urls = [server.serve(f"/{number}", web.slowly(web.content(PICTURE), 0.02)) for number in range(40)]
    Downloads(MemoryStore(), QUICK, workers=5, may_connect=is_any).fetch(urls, Recorded(), stage="")
    assert 2 <= server.most_at_once <= 5


def test_another_run_downloads_only_what_is_missing(server: Web, tmp_path: Path) -> None:
    urls = [server.serve(f"/{number}", web.content(PICTURE)) for number in range(10)]
    downloads, recorded = Downloads(LocalStore(tmp_path), QUICK, may_connect=is_any), Recorded()
    downloads.fetch(urls[:6], recorded, stage="first")
    downloads.fetch([*urls, *urls], recorded, stage="second")
    downloads.fetch(urls, recorded, stage="third")
    assert set(server.asked.values()) == {1}
    stages = [event for event in recorded.events if isinstance(event, StageStarted)]
    assert stages == [StageStarted("first", 6), StageStarted("second", 4)]
    assert sum(event.count for event in recorded.events if isinstance(event, Advanced)) == 10


def test_a_removed_file_is_downloaded_anew(server: Web, tmp_path: Path) -> None:
    url, store = server.serve("/a.png", web.content(PICTURE)), LocalStore(tmp_path)
    outcome(url, store)
    (entry,) = store.entries()
    store.delete(entry.key)
    assert outcome(url, store) == ".png"


def test_a_disk_that_takes_nothing_ends_the_downloads_at_once(server: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    urls = [server.serve(f"/{number}", web.content(PICTURE)) for number in range(200)]
    downloads = Downloads(LocalStore(tmp_path / "file"), QUICK, workers=2, may_connect=is_any)
    with pytest.raises(DataError, match="A file is in the way"):
        downloads.fetch(urls, Recorded(), stage="")
    assert sum(server.asked.values()) < 20


def test_a_damaged_memory_of_what_is_gone_is_forgotten(server: Web) -> None:
    store = MemoryStore()
    store.write("gone.json", b"{half")
    assert outcome(server.serve("/a.png", web.content(PICTURE)), store) == ".png"


def test_names_of_addresses_ignore_what_is_for_browsers_only() -> None:
    assert name_of("http://a/b.png#top") == name_of("http://a/b.png") != name_of("http://a/b.png?top")


def test_pictures_of_kinds_that_are_not_read_are_told_from_those_that_are() -> None:
    assert suffix_of(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1") == ""
    assert suffix_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") == ".avif"
    assert suffix_of(b"RIFF\0\0\0\0WAVE") == ""


KILLED = """
import sys
from pathlib import Path
from simpletuner.data.web.connections import Limits, is_any
from simpletuner.data.web.downloads import Downloads
from simpletuner.progress import Several
from simpletuner.storage.local import LocalStore
downloads = Downloads(LocalStore(Path(sys.argv[1])), Limits(), workers=4, may_connect=is_any)
downloads.fetch(sys.argv[2:], Several(), stage="")
"""


def test_a_killed_process_leaves_whole_files_and_the_next_one_finishes(server: Web, tmp_path: Path) -> None:
    urls = [server.serve(f"/{number}", web.slowly(web.content(PICTURE), 0.05)) for number in range(40)]
    for seconds in (0.05, 0.2):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), *urls])
        _wait_for_some(tmp_path, len(list(tmp_path.glob("*/*.png"))) + 2)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {path.read_bytes() for path in tmp_path.glob("??/*.png")} == {PICTURE}
    before = len(list(tmp_path.glob("??/*.png")))
    assert before < len(urls)
    server.asked.clear()
    downloads = Downloads(LocalStore(tmp_path), QUICK, may_connect=is_any)
    downloads.fetch(urls, Recorded(), stage="")
    assert len(downloads.files()) == len(urls)
    assert sum(server.asked.values()) == len(urls) - before


def test_an_interrupted_process_ends_soon_although_downloads_stand_still(server: Web, tmp_path: Path) -> None:
    urls = [server.serve("/good", web.content(PICTURE)), server.serve("/stalled", web.stalled(PICTURE, 10**6))]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), *urls], stderr=subprocess.DEVNULL)
    _wait_for_some(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == -signal.SIGINT
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [PICTURE]


def _wait_for_some(folder: Path, count: int) -> None:
    end = time.monotonic() + 60
    while len(list(folder.glob("*/*.png"))) < count and time.monotonic() < end:
        time.sleep(0.01)
