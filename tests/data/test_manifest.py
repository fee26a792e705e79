"""A scan opens only what it must, keeps what it found, and never writes beside the user's images."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from simpletuner.data import manifest as manifests
from simpletuner.data.items import Item
from simpletuner.data.manifest import Manifest, scan
from simpletuner.data.sources.local import LocalFolder
from simpletuner.errors import DataError

from .folders import folder, save


class Watched(LocalFolder):
    """A folder that remembers which files were opened or read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: list[str] = []

    def open(self, key: str) -> BinaryIO:
        self.opened.append(key)
        return super().open(key)

    def read(self, key: str) -> bytes:
        self.opened.append(key)
        return super().read(key)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return folder(tmp_path / "pictures", {"a.jpg": (96, 64), "b.png": (64, 96), "deep/er/c.webp": (32, 32)})


def scanned(source: LocalFolder, cache: Path, *, with_captions: bool = False) -> Manifest:
    return scan(source, cache / "m.parquet", with_captions=with_captions, advance=lambda count: None)


def test_a_scan_finds_every_image_and_its_size(pictures: Path, tmp_path: Path) -> None:
    rows = scanned(LocalFolder(pictures), tmp_path).rows
    assert [(row.key, row.size) for row in rows] == [
        ("a.jpg", (96, 64)), ("b.png", (64, 96)), ("deep/er/c.webp", (32, 32)),
    ]  # fmt: skip


def test_a_second_scan_opens_nothing_and_knows_the_same(pictures: Path, tmp_path: Path) -> None:
    first = scanned(Watched(pictures), tmp_path).with_digests(
        LocalFolder(pictures), ["a.jpg"], advance=lambda count: None
    )
    source = Watched(pictures)
    assert scanned(source, tmp_path).rows == first.rows
    assert source.opened == []


def test_only_new_and_changed_files_are_opened_again(pictures: Path, tmp_path: Path) -> None:
    scanned(LocalFolder(pictures), tmp_path)
    save(pictures / "new.png")
    save(pictures / "b.png", (128, 128))
    (pictures / "a.jpg").unlink()
    source = Watched(pictures)
    assert [row.key for row in scanned(source, tmp_path).rows] == ["b.png", "deep/er/c.webp", "new.png"]
    assert sorted(source.opened) == ["b.png", "new.png"]


def test_a_replaced_image_gets_another_digest_and_a_touched_one_keeps_it(pictures: Path, tmp_path: Path) -> None:
    def digests() -> dict[str, str]:
        source = LocalFolder(pictures)
        found = scanned(source, tmp_path).with_digests(source, ["a.jpg", "b.png"], advance=lambda count: None)
        return {row.key: row.digest for row in found.rows}

    before = digests()
    save(pictures / "a.jpg", (96, 64), seed=99)
    os.utime(pictures / "b.png", (1, 1))
    after = digests()
    assert before["a.jpg"] != after["a.jpg"]
    assert before["b.png"] == after["b.png"] != ""


def test_changed_captions_are_read_again_without_opening_their_images(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.txt").write_text("a cat")
    scanned(LocalFolder(pictures), tmp_path, with_captions=True)
    (pictures / "a.txt").write_text("a large cat")
    (pictures / "b.txt").write_text("a dog")
    source = Watched(pictures)
    rows = scanned(source, tmp_path, with_captions=True).rows
    assert [row.caption for row in rows] == ["a large cat", "a dog", None]
    assert source.opened == ["a.txt", "b.txt"]
    (pictures / "a.txt").unlink()
    assert [row.caption for row in scanned(source, tmp_path, with_captions=True).rows] == [None, "a dog", None]


def test_an_interrupted_scan_keeps_what_it_found(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Watched):
        def open(self, key: str) -> BinaryIO:
            if len(self.opened) == 2:
                raise KeyboardInterrupt
            return super().open(key)

    monkeypatch.setattr(manifests, "_SAVE_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        scanned(Interrupted(pictures), tmp_path)
    source = Watched(pictures)
    assert len(scanned(source, tmp_path).rows) == 3
    assert source.opened == ["deep/er/c.webp"]


@pytest.mark.parametrize("damage", [b"", b"PAR1 nonsense", None])
def test_a_damaged_manifest_is_made_anew(pictures: Path, tmp_path: Path, damage: bytes | None) -> None:
    rows = scanned(LocalFolder(pictures), tmp_path).rows
    path = tmp_path / "m.parquet"
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    assert scanned(LocalFolder(pictures), tmp_path).rows == rows


def test_bad_files_are_kept_with_the_reason_and_not_opened_again(pictures: Path, tmp_path: Path) -> None:
    (pictures / "empty.jpg").touch()
    (pictures / "random.png").write_bytes(bytes(range(256)) * 4)
    (pictures / "phone.heic").write_bytes(b"x")
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    source = Watched(pictures)
    problems = {row.key: row.problem for row in scanned(source, tmp_path).rows if row.problem}
    assert problems == {
        "empty.jpg": "the file is empty (0 bytes)",
        "gone.png": "it cannot be opened (no such file or directory)",
        "phone.heic": "pictures of this kind are not read; save it as PNG or JPEG",
        "random.png": "it is not an image of a kind that can be read, or it is damaged",
    }
    source.opened.clear()
    scanned(source, tmp_path)
    assert source.opened == ["gone.png"]


def test_a_name_that_is_not_text_is_told(pictures: Path, tmp_path: Path) -> None:
    with open(os.fsencode(pictures) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    (row,) = (row for row in scanned(LocalFolder(pictures), tmp_path).rows if row.problem)
    assert row.problem == "its name is not valid UTF-8; rename it"
    assert len(scanned(LocalFolder(pictures), tmp_path).rows) == 4


def test_hidden_files_system_folders_and_circles_of_links_are_passed_over(pictures: Path, tmp_path: Path) -> None:
    for name in (".hidden.png", ".Trashes/x.png", ".ipynb_checkpoints/x.png", "__MACOSX/._x.png"):
        save(pictures / name) if "._" not in name else None
    (pictures / "deep" / "circle").symlink_to(pictures)
    save(tmp_path / "elsewhere" / "linked.png")
    (pictures / "link").symlink_to(tmp_path / "elsewhere")
    keys = [row.key for row in scanned(LocalFolder(pictures), tmp_path).rows]
    assert keys == ["a.jpg", "b.png", "deep/er/c.webp", "link/linked.png"]


def test_a_folder_with_the_name_of_an_image_is_still_a_folder(tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "odd.jpg" / "a.png")
    assert [row.key for row in scanned(LocalFolder(tmp_path / "pictures"), tmp_path).rows] == ["odd.jpg/a.png"]


def test_nothing_is_written_beside_the_images(pictures: Path, tmp_path: Path) -> None:
    def listing() -> Iterator[tuple[str, float]]:
        for parent, folders, files in os.walk(pictures):
            for name in [*folders, *files]:
                yield os.path.join(parent, name), os.stat(os.path.join(parent, name)).st_mtime

    before = sorted(listing())
    source = LocalFolder(pictures)
    scanned(source, tmp_path, with_captions=True).with_digests(source, ["a.jpg"], advance=lambda count: None)
    assert sorted(listing()) == before


def test_a_cache_folder_that_cannot_be_written_is_told(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match="cannot write .*cache/m.parquet: .*A file is in the way"):
        scanned(LocalFolder(pictures), tmp_path / "cache")


def test_a_vanished_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read .*gone.*: no such file or directory. Check instance_data_dir"):
        list(LocalFolder(tmp_path / "gone").items())


def test_listing_gives_facts_without_opening(pictures: Path) -> None:
    source = Watched(pictures)
    items = {item.key: item for item in source.items()}
    found = (pictures / "a.jpg").stat()
    assert items["a.jpg"] == Item("a.jpg", f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}", found.st_size)
    assert source.opened == []
