"""Tar shards in folders and on a web server: read by range, indexed once, damaged ones named."""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import web
from servers.web import Behaviour, Handler, Web

from data.sources.drawn import picture
from simpletuner.data.items import Item, Size
from simpletuner.data.sources.shards.places import place_of, unbraced
from simpletuner.data.sources.shards.ranges import Ranges
from simpletuner.data.sources.shards.source import Shards
from simpletuner.data.sources.webshart import Webshart
from simpletuner.errors import DataError
from simpletuner.progress import Recorded, StageStarted
from simpletuner.storage.retries import Patience


def shard(files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


FILES = {
    "0001.jpg": picture(1),
    "0001.txt": b"a cat\r\n",
    "0002.png": picture(2, (30, 40), "PNG"),
    "0002.json": json.dumps({"caption": "a dog", "long": ["one", "two"], "width": 9}).encode(),
    "deep/0003.webp": picture(3, (20, 20), "WEBP"),
    "0004.seg.png": picture(4, kind="PNG"),
    "0004.txt": b"four",
    "notes.md": b"no image",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shards" / "more").mkdir(parents=True)
    (tmp_path / "shards" / "a-000.tar").write_bytes(shard(FILES))
    (tmp_path / "shards" / "more" / "b-000.tar").write_bytes(shard({"x.jpg": picture(9)}))
    return tmp_path / "shards"


def opened(source: object, cache: Path | None = None, **options: object) -> Shards:
    given = {"id": "w", "type": "webshart", "source": str(source), "cache_dir": cache and str(cache), **options}
    return Webshart.model_validate(given).open()


def listed(source: object, cache: Path | None = None, **options: object) -> dict[str, Item]:
    return {item.key: item for item in opened(source, cache, **options).items()}


def test_every_image_is_listed_with_its_size_and_read_as_it_is(folder: Path) -> None:
    source = opened(folder)
    items = {item.key: item for item in source.items()}
    names = ["0001.jpg", "0002.png", "deep/0003.webp", "0004.seg.png"]
    assert list(items) == [*(f"a-000/{name}" for name in names), "more/b-000/x.jpg"]
    sizes = [(48, 32), (30, 40), (20, 20), (48, 32), (48, 32)]
    assert [item.size for item in items.values()] == [Size(*size) for size in sizes]
    for key in names:
        assert source.read(f"a-000/{key}") == FILES[key]
        assert items[f"a-000/{key}"].size_bytes == len(FILES[key])
        with source.open(f"a-000/{key}") as file:
            file.seek(10)
            assert file.read(5) == FILES[key][10:15]
    assert source.name("a-000/deep/0003.webp") == f"{folder}/a-000.tar:deep/0003.webp"


def test_captions_stand_beside_the_images(folder: Path) -> None:
    found = [item.captions for item in listed(folder).values()]
    assert found == [("a cat\r\n",), ("a dog",), (), ("four",), ()]


def test_caption_column_names_the_key_in_json_files(folder: Path) -> None:
    assert listed(folder, caption_column="long")["a-000/0002.png"].captions == ("one", "two")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_tar_format(tmp_path: Path, form: int) -> None:
    name = "./" + "folder-" * 10 + "/" + "ü-" * 20 + ".jpg"
    (tmp_path / "a.tar").write_bytes(shard({name: picture(1)}, form))
    source = opened(tmp_path)
    assert [source.read(item.key) for item in source.items()] == [picture(1)]
    assert [item.key for item in source.items()] == ["a/" + name.removeprefix("./")]


def test_an_index_is_made_once_and_again_when_the_shard_changes(folder: Path, tmp_path: Path) -> None:
    first = listed(folder, tmp_path / "cache")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    recorded = Recorded()
    source = opened(folder, tmp_path / "cache")
    source.prepare(recorded)
    assert {item.key: item for item in source.items()} == first
    assert recorded.events == []
    (folder / "a-000.tar").write_bytes(shard({"0001.jpg": picture(7, (64, 64))}))
    source = opened(folder, tmp_path / "cache")
    source.prepare(recorded)
    assert StageStarted("looking through the shards of data set 'w'", 1) in recorded.events
    found = {item.key: item for item in source.items()}
    assert found["a-000/0001.jpg"].size == Size(64, 64)
    assert found["a-000/0001.jpg"].version != first["a-000/0001.jpg"].version
    assert found["more/b-000/x.jpg"] == first["more/b-000/x.jpg"]
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}.items()


def test_nothing_is_written_where_the_shards_are(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    source = opened(folder)
    assert [source.read(item.key) for item in source.items()]
    assert sorted(folder.rglob("*")) == before


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A header that claims what it likes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "hostile",
    [
        header("a.jpg", -1024),
        header("a.other", -1024),
        header("x", 0, b"L") * 5000,
        header("x", 2**40, b"L"),
        header("x", -9, b"x"),
    ],
)
def test_a_hostile_header_ends_a_shard_and_nothing_else(tmp_path: Path, hostile: bytes) -> None:
    good = shard({"good.jpg": picture(1)}, tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(good[: 512 + -(-len(picture(1)) // 512) * 512] + hostile + bytes(4096))
    (tmp_path / "b.tar").write_bytes(good)
    items = listed(tmp_path)
    assert [key for key, item in items.items() if not item.problem] == ["a/good.jpg", "b/good.jpg"]
    assert "the 1 images before that are used" in items["a.tar"].problem


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_to_a_shard_its_images_are_whole_or_it_is_named(tmp_path: Path, data: st.DataObject) -> None:
    files = {f"{number}.png": picture(number, (30, 20), "PNG") for number in range(3)}
    whole = bytearray(shard(files, data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]))))
    cut = data.draw(st.integers(1, len(whole)))
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    source = opened(tmp_path)
    items = list(source.items())
    used = [source.read(item.key) for item in items if not item.problem]
    assert used == list(files.values())[: len(used)]
    assert len(used) == len(files) or any(item.problem for item in items) or cut % 512 == 0


def test_a_damaged_index_is_made_anew(folder: Path, tmp_path: Path) -> None:
    before = listed(folder, tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert listed(folder, tmp_path / "cache") == before


@pytest.mark.parametrize("cut", [700, 5000, 9000, 12000])
def test_of_a_cut_off_shard_the_images_before_the_cut_are_used(tmp_path: Path, cut: int) -> None:
    files = {f"{number}.png": picture(number, (40, 30), "PNG") for number in range(4)}
    whole = shard(files)
    assert cut < len(whole)
    (tmp_path / "cut.tar").write_bytes(whole[:cut])
    source = opened(tmp_path)
    *used, damaged = source.items()
    assert damaged.key == "cut.tar"
    assert "cut off after byte" in damaged.problem and f"the {len(used)} images before" in damaged.problem
    assert [source.read(item.key) for item in used] == list(files.values())[: len(used)]


def test_a_damaged_header_is_told(tmp_path: Path) -> None:
    files = {f"{number}.png": picture(number, (40, 30), "PNG") for number in range(4)}
    whole = bytearray(shard(files, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        whole[tar.getmembers()[2].offset + 20] ^= 0xFF
    (tmp_path / "bad.tar").write_bytes(whole)
    (tmp_path / "noise.tar").write_bytes(picture(3, (99, 99), "PNG"))
    (tmp_path / "empty.tar").write_bytes(b"")
    items = listed(tmp_path)
    assert [key for key, item in items.items() if not item.problem] == ["bad/0.png", "bad/1.png"]
    assert "a header is damaged" in items["bad.tar"].problem
    assert "the 0 images before" in items["noise.tar"].problem
    assert "the 0 images before" in items["empty.tar"].problem


def test_a_shard_without_an_end_mark_is_whole(tmp_path: Path) -> None:
    whole = shard({"a.jpg": picture(1)}, tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(whole[: 512 + -(-len(picture(1)) // 512) * 512])
    assert [item.problem for item in listed(tmp_path).values()] == [""]


def test_a_shard_that_may_be_cut_off_between_two_files_is_told_in_every_run(tmp_path: Path) -> None:
    whole = shard({"a.jpg": picture(1), "b.jpg": picture(2)}, tarfile.USTAR_FORMAT)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "cut.tar").write_bytes(whole[: 512 + -(-len(picture(1)) // 512) * 512])
    (tmp_path / "shards" / "whole.tar").write_bytes(whole)
    for _ in range(2):
        recorded, source = Recorded(), opened(tmp_path / "shards", tmp_path / "cache")
        assert [item.key for item in source.items()] == ["cut/a.jpg", "whole/a.jpg", "whole/b.jpg"]
        source.tell(recorded)
        (told,) = recorded.texts()
        assert told.startswith("data set 'w': 1 shard has no end mark and may be cut off between two files: cut.tar.")


def test_a_compressed_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    assert "unpack it" in listed(tmp_path)["a.tar.gz"].problem


def test_a_damaged_image_is_left_to_the_scan(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(shard({"bad.jpg": b"<html>", "good.jpg": picture(1), "x.jxl": b"?"}))
    assert [(item.size, item.problem) for item in listed(tmp_path).values()] == [
        (None, ""),
        (Size(48, 32), ""),
        (None, ""),
    ]


def test_too_large_an_image_is_left_out(folder: Path) -> None:
    before, items = listed(folder), listed(folder, max_file_size=len(FILES["0002.png"]) - 1)
    item = items["a-000/0002.png"]
    assert item.problem.startswith("larger than max_file_size")
    assert item.version != before[item.key].version
    assert not items["a-000/0001.jpg"].problem


def test_a_ready_index_is_used_and_completed_with_captions(folder: Path, tmp_path: Path) -> None:
    whole = shard(FILES)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        places = {info.name: {"offset": info.offset_data, "length": info.size} for info in tar}
    places["0001.jpg"] |= {"width": 480, "height": 320, "captions": ["from the", "index"], "sha256": "abc"}
    (tmp_path / "indexes").mkdir()
    (tmp_path / "indexes" / "a-000.json").write_text(json.dumps({"files": places}))
    items = listed(folder, metadata=str(tmp_path / "indexes"))
    first, second = items["a-000/0001.jpg"], items["a-000/0002.png"]
    assert (first.size, first.captions, first.digest) == (Size(480, 320), ("from the", "index"), "abc")
    assert (second.size, second.captions) == (None, ("a dog",))


def test_captions_that_are_written_into_a_ready_index_are_seen_in_the_next_run(folder: Path, tmp_path: Path) -> None:
    entry = {"offset": 512, "length": len(FILES["0001.jpg"])}
    for captions in ("before", "after"):
        (folder / "a-000.json").write_text(json.dumps({"files": {"0001.jpg": {**entry, "captions": captions}}}))
        assert listed(folder, tmp_path / "cache")["a-000/0001.jpg"].captions == (captions,)


@pytest.mark.parametrize(
    "index", ["{", "[]", '{"files": {"0001.jpg": {"offset": 99999999, "length": 1}}}', '{"files": {"0001.jpg": 3}}']
)
def test_an_index_of_something_else_is_not_used(folder: Path, index: str) -> None:
    before = listed(folder)
    (folder / "a-000.json").write_text(index)
    assert listed(folder) == before


def test_a_place_without_shards_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"no \.tar files in {tmp_path}\. Check source and subfolder"):
        listed(tmp_path)
    with pytest.raises(DataError, match="nowhere.*no such file or directory"):
        listed(tmp_path / "nowhere.tar")


def test_braces_mean_several_shards(folder: Path) -> None:
    assert unbraced("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert unbraced("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert unbraced("a{b}c") == ["a{b}c"]
    (folder / "a-001.tar").write_bytes(shard({"y.jpg": picture(2)}))
    keys = list(listed(f"{folder}/a-{{000..001}}.tar"))
    assert len(keys) == 5
    assert keys[-1] == "a-001/y.jpg"


def ranged(data: bytes, served: list[int]) -> Behaviour:
    """A file of which parts can be had; counts the bytes that were sent."""

    def answer(handler: Handler) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        assert wanted is not None
        start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
        if start >= len(data):
            return web.status(416, Content_Range=f"bytes */{len(data)}")(handler)
        length = {"Content-Length": str(end - start), "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        handler.start(206, {**length, "ETag": '"one"'})
        handler.wfile.write(data[start:end])
        served.append(end - start)

    return answer


@pytest.fixture
def server() -> Iterator[Web]:
    with web.running() as running:
        yield running


def test_shards_on_a_web_server_are_read_by_range(server: Web, tmp_path: Path) -> None:
    served: list[int] = []
    large = {f"{number}.bmp": picture(number, (1000, 1000), "BMP") for number in range(3)}
    server.serve("/data/a-0.tar", ranged(shard(large), served))
    server.serve("/data/a-1.tar", ranged(shard(FILES), served))
    address = server.address("/data/a-{0..1}.tar")
    source = opened(address, tmp_path / "cache")
    items = {item.key: item for item in source.items()}
    assert list(items)[:4] == ["a-0/0.bmp", "a-0/1.bmp", "a-0/2.bmp", "a-1/0001.jpg"]
    assert items["a-0/1.bmp"].size == Size(1000, 1000)
    assert items["a-1/0001.jpg"].captions == ("a cat\r\n",)
    assert sum(served) < 2**21 < len(shard(large))
    assert source.read("a-0/2.bmp") == large["2.bmp"]
    with source.open("a-0/1.bmp") as file:
        assert file.read(2) == b"BM"
    assert source.name("a-0/1.bmp") == server.address("/data/a-0.tar:1.bmp")
    asked = server.asked.total()
    assert {item.key: item for item in opened(address, tmp_path / "cache").items()} == items
    # Only whether the shards are the same, and whether there is an index beside them.
    assert server.asked.total() - asked == 4
    assert sum(served) < 2**22 < len(shard(large))


def test_passing_failures_of_a_server_are_not_noticed(server: Web) -> None:
    file = ranged(shard({"a.jpg": picture(1)}), [])
    server.serve("/a.tar", web.status(503), file, web.reset, web.status(429), file)
    source = opened(server.address("/a.tar"))
    assert [source.read(item.key) for item in source.items()] == [picture(1)]


def test_a_redirection_is_followed_once_without_our_token_and_renewed_when_it_expires(server: Web) -> None:
    data = shard({"a.jpg": picture(1)})
    file = ranged(data, [])
    elsewhere = server.address("/signed", host="127.0.0.2")
    server.serve("/a.tar", web.redirect(elsewhere))
    server.serve("/signed", file, file, web.status(403), file)
    ranges = Ranges({"Authorization": "Bearer secret"})
    assert [ranges.fetch(server.address("/a.tar"), 0, 9) for _ in range(4)] == [data[:9]] * 4
    assert server.asked["/a.tar"] == 2
    assert all("Authorization" in headers for headers in server.headers["/a.tar"])
    assert all("Authorization" not in headers for headers in server.headers["/signed"])


def test_a_server_that_sends_less_or_more_or_something_else_than_was_asked_for(server: Web) -> None:
    data = bytes(range(256)) * 8

    def part(start: int, end: int, extra: bytes = b"", missing: int = 0) -> Behaviour:
        def answer(handler: Handler) -> None:
            length = len(data[start:end] + extra) + missing
            handler.start(206, {"Content-Length": str(length), "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})
            handler.wfile.write(data[start:end] + extra)
            handler.close_connection = missing > 0

        return answer

    ranges = Ranges()
    little = server.serve("/little", part(10, 15), part(15, 30))
    assert ranges.fetch(little, 10, 20) == data[10:30]
    much = server.serve("/much", part(10, 30, b"more" * 1000))
    assert ranges.fetch(much, 10, 20) == data[10:30]
    with pytest.raises(DataError, match="does not send the part it is asked for"):
        ranges.fetch(server.serve("/other", part(0, 20)), 10, 20)
    cut = server.serve("/cut", part(10, 13, missing=17), part(10, 30))
    assert ranges.fetch(cut, 10, 20) == data[10:30]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (web.status(404), "answers with status 404. Check source and subfolder"),
        (web.status(401), "answers with status 401. Set hf_token"),
        (web.content(b"x" * 5000), "cannot be read by range: its server does not send the part it is asked for"),
    ],
)
def test_what_a_server_will_not_do_is_told_without_secrets(server: Web, answer: Behaviour, told: str) -> None:
    server.serve("/a.tar", answer)
    address = server.address("/a.tar?signature=secret").replace("http://", "http://me:password@")
    with pytest.raises(DataError) as error:
        listed(address)
    assert told in str(error.value)
    assert "secret" not in str(error.value) and "password" not in str(error.value)


def test_a_server_that_is_not_there_is_told(server: Web) -> None:
    patience = Patience(first_deadline=0.3, first_wait=0.05)
    with pytest.raises(DataError, match=r"cannot read http://127\.0\.0\.1:9/a\.tar after \d tries"):
        Ranges(patience=patience).look("http://127.0.0.1:9/a.tar")


def test_an_address_of_no_shard_is_told(server: Web) -> None:
    with pytest.raises(DataError, match="A web server cannot be listed"):
        place_of(server.address("/folder/")).shards()


def test_the_token_is_never_shown() -> None:
    entry = Webshart.model_validate({"id": "w", "type": "webshart", "source": "a/b", "hf_token": "hf_secret"})
    assert "hf_secret" not in repr(entry) + str(entry) + entry.model_dump_json()
