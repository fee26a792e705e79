"""A table of addresses as a data set."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from servers import web
from servers.web import Web

from simpletuner.data.items import Item
from simpletuner.data.sources.csv import Csv, CsvImages
from simpletuner.data.web.downloads import Preparable
from simpletuner.errors import DataError
from simpletuner.progress import Recorded, StageStarted


@pytest.fixture
def server() -> Iterator[Web]:
    with web.running() as server:
        yield server


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def picture(colour: int = 0, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    noise = hashlib.shake_128(bytes([colour])).digest(16 * 16 * 3)
    Image.frombytes("RGB", (16, 16), noise).save(buffer, format)
    return buffer.getvalue()


def source(folder: Path, *rows: str, **options: object) -> CsvImages:
    table = folder / "images.csv"
    table.write_text("\n".join(["url,caption", *rows, ""]), encoding="utf-8")
    given = {
        "id": "web",
        "type": "csv",
        "csv_file": table,
        "csv_cache_dir": folder / "cache",
        "csv_caption_column": "caption",
        "csv_allow_private_addresses": True,
        "csv_timeout": 2,
    }
    return Csv.model_validate({**given, **options}).open()


def listed(source: CsvImages) -> dict[str, Item]:
    return {item.key: item for item in source.items()}


def test_images_are_listed_with_their_captions_and_read_as_they_are_on_the_web(server: Web, tmp_path: Path) -> None:
    cat = server.serve("/pets/cat.png", web.content(picture(1)))
    dog = server.serve("/pets/dog", web.content(picture(2, "JPEG")))
    images = source(tmp_path, f"{cat},a cat", f"{dog},a dog", f"{dog},an animal")
    found = listed(images)
    assert {key: item.captions for key, item in found.items()} == {
        "cat.png": ("a cat",),
        "dog.jpg": ("a dog", "an animal"),
    }
    assert images.read("cat.png") == picture(1)
    with images.open("dog.jpg") as file:
        assert file.read() == picture(2, "JPEG")
    assert found["cat.png"].size_bytes == len(picture(1))
    assert images.name("cat.png") == cat


def test_listing_again_in_another_run_says_the_same_and_asks_nobody(server: Web, tmp_path: Path) -> None:
    rows = [f"{server.serve(f'/{number}.png', web.content(picture(number)))},x" for number in range(5)]
    first = listed(source(tmp_path, *rows))
    server.asked.clear()
    assert listed(source(tmp_path, *rows)) == first
    assert not server.asked


def test_listing_twice_in_one_run_asks_nobody_again(server: Web, tmp_path: Path) -> None:
    good, bad = server.serve("/a.png", web.content(picture())), server.serve("/b.png", web.status(403))
    images = source(tmp_path, f"{good},x", f"{bad},y")
    first = listed(images)
    server.asked.clear()
    assert listed(images) == first
    assert not server.asked


def test_a_new_row_downloads_that_image_only(server: Web, tmp_path: Path) -> None:
    rows = [f"{server.serve(f'/{number}.png', web.content(picture(number)))},x" for number in range(5)]
    listed(source(tmp_path, *rows[:4]))
    server.asked.clear()
    assert len(listed(source(tmp_path, *rows))) == 5
    assert server.asked == {"/4.png": 1}


def test_images_with_the_same_name_in_different_places_are_told_apart(server: Web, tmp_path: Path) -> None:
    rows = [f"{server.serve(f'/{number}/photo.png', web.content(picture(number)))},{number}" for number in range(3)]
    images = source(tmp_path, *rows, f"{server.serve('/other.png', web.content(picture(9)))},9")
    found = listed(images)
    assert all(key.startswith("photo-") for key in found if key != "other.png")
    assert {item.captions: images.read(key) for key, item in found.items()} == {
        (str(number),): picture(number) for number in (0, 1, 2, 9)
    }


def test_names_come_from_addresses_without_anything_that_a_path_cannot_have(server: Web, tmp_path: Path) -> None:
    wanted = {
        "/%2e%2e%2fup.png": "up.png",
        "/caf%C3%A9%20noir.png": "café noir.png",
        "/.hidden.png": "hidden.png",
        "/folder/": "folder.png",
        "/a%00b%5Cc.d.png": "c.d.png",
        f"/{'long' * 100}.png": f"{'long' * 30}.png",
    }
    rows = [f"{server.serve(path, web.content(picture(number)))},x" for number, path in enumerate(wanted)]
    assert list(listed(source(tmp_path, *rows))) == list(wanted.values())


def test_what_cannot_be_downloaded_is_listed_with_the_reason_and_counted_in_one_notice(
    server: Web, tmp_path: Path
) -> None:
    good = server.serve("/good.png", web.content(picture()))
    page = server.serve("/page.jpg", web.content(b"<html>" + bytes(100), "text/html"))
    images = source(tmp_path, f"{good},x", f"{page},y", *(f"{server.address(f'/{n}.png')},z" for n in range(3)))
    recorded = Recorded()
    images.prepare(recorded)
    found = listed(images)
    assert found["good.png"].problem == ""
    assert found["page.jpg"] == Item(
        "page.jpg",
        "",
        0,
        captions=("y",),
        problem="cannot be downloaded: the address gives a web page or text instead of an image",
    )
    assert found["1.png"].problem == "cannot be downloaded: the server answers 404 (Not Found)"
    (notice,) = recorded.texts()
    assert notice == (
        "data set 'web': 4 of 5 images cannot be downloaded: 3 because the server answers 404 (Not Found); "
        "1 because the address gives a web page or text instead of an image. "
        f"What is gone for good is not asked for again unless you delete {tmp_path / 'cache' / 'gone.json'}"
    )
    assert [event for event in recorded.events if isinstance(event, StageStarted)] == [
        StageStarted("downloading images of data set 'web'", 5)
    ]


def test_the_notice_about_what_is_gone_comes_in_every_run(server: Web, tmp_path: Path) -> None:
    rows = [f"{server.serve('/good.png', web.content(picture()))},x", f"{server.address('/gone.png')},y"]
    first, second = Recorded(), Recorded()
    source(tmp_path, *rows).prepare(first)
    server.asked.clear()
    source(tmp_path, *rows).prepare(second)
    assert first.texts() == second.texts() != []
    assert not server.asked


def test_when_nothing_can_be_downloaded_the_run_ends(tmp_path: Path) -> None:
    images = source(tmp_path, "http://nowhere.invalid/a.png,x")
    with pytest.raises(DataError, match=r"data set 'web': 1 of 1 images cannot be downloaded: .* Check the network"):
        images.prepare(Recorded())


def test_private_addresses_are_refused_unless_they_are_allowed(server: Web, tmp_path: Path) -> None:
    row = f"{server.serve('/a.png', web.content(picture()))},x"
    with pytest.raises(DataError, match="csv_allow_private_addresses"):
        listed(source(tmp_path, row, csv_allow_private_addresses=False))
    assert not server.asked
    assert list(listed(source(tmp_path, row))) == ["a.png"]


def test_rows_may_name_files_on_this_machine_which_are_read_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    inside, outside = tmp_path / "images" / "a @home?.png", tmp_path / "b c.png"
    inside.write_bytes(picture(1))
    outside.write_bytes(picture(2))
    images = source(tmp_path, "images/a @home?.png,x", f"{outside.as_uri()},y", "images/missing.png,z")
    found = listed(images)
    assert images.read("a @home?.png") == picture(1)
    assert images.read("b c.png") == picture(2)
    assert images.name("a @home?.png") == str(inside)
    assert "no such file; paths are relative" in found["missing.png"].problem
    inside.write_bytes(picture(3))
    assert listed(images)["a @home?.png"].version != found["a @home?.png"].version
    assert not (tmp_path / "cache").exists()


def test_a_file_on_this_machine_that_is_no_picture_is_no_caption_file_either(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("private")
    assert list(listed(source(tmp_path, "notes.txt,x"))) == ["notes"]


def test_a_source_that_downloads_has_to_be_prepared(tmp_path: Path) -> None:
    assert isinstance(source(tmp_path), Preparable)


@pytest.mark.parametrize("address", ["s3://bucket/a.png", "data:image/png;base64 AA", "ftp://host/a.png"])
def test_addresses_of_other_kinds_are_a_reason(tmp_path: Path, address: str) -> None:
    (item,) = source(tmp_path, f"{address},x").items()
    assert item.problem == "its address begins neither with https:// nor with http://, and is no path"


def test_secrets_in_addresses_appear_nowhere(server: Web, tmp_path: Path) -> None:
    good = server.serve("/good.png", web.content(picture())).replace("//", "//user:s3cr3t@") + "?token=s3cr3t"
    bad = server.serve("/bad.png", web.status(403)).replace("//", "//user:s3cr3t@") + "?token=s3cr3t"
    gone, bucket = bad.replace("bad", "gone"), "s3://user:s3cr3t@bucket/a.png?s3cr3t"
    images, recorded = source(tmp_path, f"{good},x", f"{bad},y", f"{gone},z", f"{bucket},z"), Recorded()
    images.prepare(recorded)
    found = listed(images)
    told = [str(recorded.events), str(found), *map(images.name, found)]
    (tmp_path / "images.csv").unlink()
    for path in (tmp_path / "cache").rglob("*.png"):
        path.unlink()
    for key in found:
        with pytest.raises(DataError) as error:
            images.read(key)
        told.append(str(error.value))
    told += [f"{path} {path.read_bytes()!r}" for path in tmp_path.rglob("*") if path.is_file()]
    assert len(told) > 8
    assert "s3cr3t" not in "".join(told)


def test_rows_without_an_address_are_counted_in_a_notice(server: Web, tmp_path: Path) -> None:
    recorded = Recorded()
    source(tmp_path, f"{server.serve('/a.png', web.content(picture()))},x", ",y", ",z").prepare(recorded)
    (notice,) = recorded.texts()
    assert notice.endswith("images.csv have no address and are left out")
    assert notice.startswith("data set 'web': 2 rows of ")


def test_a_source_reads_without_being_listed_first_and_in_another_process(server: Web, tmp_path: Path) -> None:
    row = f"{server.serve('/a.png', web.content(picture()))},x"
    assert source(tmp_path, row).read("a.png") == picture()
    assert pickle.loads(pickle.dumps(source(tmp_path, row))).read("a.png") == picture()


def test_an_image_that_is_not_in_the_table_is_named(server: Web, tmp_path: Path) -> None:
    images = source(tmp_path, f"{server.serve('/a.png', web.content(picture()))},x")
    with pytest.raises(DataError, match=r"images.csv has no image 'b.png' any more"):
        images.read("b.png")


def test_a_file_that_vanished_is_named_with_its_address(server: Web, tmp_path: Path) -> None:
    images = source(tmp_path, f"{server.serve('/a.png', web.content(picture()))},x")
    listed(images)
    (path,) = (tmp_path / "cache").glob("*/*.png")
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*\.png, which is http://127.*/a.png: no such file"):
        images.read("a.png")


def test_halves_of_files_that_a_killed_run_left_are_removed_when_they_are_old(server: Web, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "ab"
    folder.mkdir(parents=True)
    old, new = folder / ".1.part", folder / ".2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    listed(source(tmp_path, f"{server.serve('/a.png', web.content(picture()))},x"))
    assert not old.exists()
    assert new.exists()


def test_limits_of_a_data_set_hold(server: Web, tmp_path: Path) -> None:
    rows = [f"{server.serve('/a.png', web.content(picture()))},x", f"{server.serve('/b.png', web.endless(picture()))},"]
    found = listed(source(tmp_path, *rows, csv_max_file_size=5000, csv_max_workers=1))
    assert found["b.png"].problem == "cannot be downloaded: the file is larger than csv_max_file_size (5,000 bytes)"
    assert found["a.png"].problem == ""


@pytest.mark.parametrize("option", [{"csv_max_workers": 0}, {"csv_timeout": 0}, {"csv_max_file_size": "much"}])
def test_options_that_cannot_be_are_refused(tmp_path: Path, option: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(option))):
        source(tmp_path, **option)
