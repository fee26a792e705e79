"""A scan opens only what it must, keeps what it found, and never writes beside the user's images."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from simpletuner.data import manifest as manifests
from simpletuner.data import scan as scans
from simpletuner.data.items import Item, Size
from simpletuner.data.manifest import Manifest, Row, load
from simpletuner.data.scan import scan
from simpletuner.data.sources.base import wanted
from simpletuner.data.sources.local import LocalFolder
from simpletuner.errors import DataError

from .folders import folder, save


class Watched(LocalFolder):
    """A folder that remembers which files were opened or read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, wanted())
        self.opened: list[str] = []

    def open(self, key: str) -> BinaryIO:
        self.opened.append(key)
        return super().open(key)

    def read(self, key: str) -> bytes:
        self.opened.append(key)
        return super().read(key)


class Listed:
    """A source that knows more about its images than a folder does."""

    lanes = 4

    def __init__(self, *items: Item) -> None:
        self._items = items

    def items(self) -> Iterator[Item]:
        yield from self._items

    def read(self, key: str) -> bytes:
        raise DataError(f"{key} must not be read")

    def open(self, key: str) -> BinaryIO:
        raise DataError(f"{key} must not be opened")

    def name(self, key: str) -> str:
        return key


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return folder(tmp_path / "pictures", {"a.jpg": (96, 64), "b.png": (64, 96), "deep/er/c.webp": (32, 32)})


def scanned(
    source: LocalFolder | Listed, cache: Path, *, with_captions: bool = False, extension: str = ".txt"
) -> Manifest:
    return scan(
        source,
        cache / "m.parquet",
        caption_extension=extension,
        with_captions=with_captions,
        advance=lambda count: None,
    )


def rows(manifest: Manifest) -> list[Row]:
    return [manifest.row(place) for place in range(len(manifest))]


def captions(manifest: Manifest) -> list[Sequence[str] | None]:
    return [row.captions for row in rows(manifest)]


def test_a_scan_finds_every_image_and_its_size(pictures: Path, tmp_path: Path) -> None:
    assert [(row.key, row.size) for row in rows(scanned(Watched(pictures), tmp_path))] == [
        ("a.jpg", (96, 64)), ("b.png", (64, 96)), ("deep/er/c.webp", (32, 32)),
    ]  # fmt: skip


def test_a_second_scan_opens_nothing_and_knows_the_same(pictures: Path, tmp_path: Path) -> None:
    source = Watched(pictures)
    first = scanned(source, tmp_path).with_digests(source, np.array([0]), lambda count: None)
    source.opened.clear()
    second = scanned(source, tmp_path)
    assert second.table.equals(first.table)
    assert second.row(0).digest and source.opened == []


def test_only_new_and_changed_files_are_opened_again(pictures: Path, tmp_path: Path) -> None:
    scanned(Watched(pictures), tmp_path)
    save(pictures / "new.png")
    save(pictures / "b.png", (128, 128))
    (pictures / "a.jpg").unlink()
    source = Watched(pictures)
    assert [row.key for row in rows(scanned(source, tmp_path))] == ["b.png", "deep/er/c.webp", "new.png"]
    assert sorted(source.opened) == ["b.png", "new.png"]


def test_a_replaced_image_is_forgotten_even_when_its_time_is_set_back(pictures: Path, tmp_path: Path) -> None:
    source, path = Watched(pictures), pictures / "a.jpg"
    before = scanned(source, tmp_path).with_digests(source, np.array([0, 1]), lambda count: None)
    found = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    after = scanned(source, tmp_path)
    assert [row.digest for row in rows(after)] == ["", before.row(1).digest, ""]


def test_changed_captions_are_read_again_without_opening_their_images(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.txt").write_text("a cat")
    source = Watched(pictures)
    scanned(source, tmp_path, with_captions=True).with_digests(source, np.array([0]), lambda count: None)
    (pictures / "a.txt").write_text("a large cat")
    (pictures / "b.txt").write_text("a dog")
    source.opened.clear()
    found = scanned(source, tmp_path, with_captions=True)
    assert captions(found) == [["a large cat"], ["a dog"], None]
    assert found.row(0).digest and source.opened == ["a.txt", "b.txt"]
    (pictures / "a.txt").unlink()
    assert captions(scanned(source, tmp_path, with_captions=True)) == [None, ["a dog"], None]


def test_captions_come_and_go_with_the_strategy(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.txt").write_text("a cat")
    source = Watched(pictures)
    for with_captions, first in [(False, None), (True, ["a cat"]), (False, None), (True, ["a cat"])]:
        # Files with captions that nobody needs are not read, and their text stays where it is not in the way.
        found = scanned(source, tmp_path, with_captions=with_captions)
        assert with_captions is False or captions(found)[0] == first


@pytest.mark.parametrize("extension", [".caption", ".Caption", ".TAGS"])
def test_caption_files_may_have_any_ending_in_any_case(tmp_path: Path, extension: str) -> None:
    root = folder(tmp_path / "pictures", {"a.png": (64, 64), "b.png": (64, 64)})
    (root / f"a{extension}").write_text("one")
    (root / f"b{extension.lower()}").write_text("two")
    source = LocalFolder(root, wanted(extension))
    assert captions(scanned(source, tmp_path, with_captions=True, extension=extension)) == [["one"], ["two"]]


def test_a_file_that_is_too_large_for_a_caption_is_not_read_and_hinders_no_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / "pictures" / f"{name}.png")
    (tmp_path / "pictures" / "a.txt").write_bytes(b"x" * 2_000_000)
    (tmp_path / "pictures" / "b.txt").write_text("fine")
    assert captions(scanned(LocalFolder(tmp_path / "pictures"), tmp_path, with_captions=True)) == [[], ["fine"]]


@pytest.mark.parametrize(("picture", "text"), [("e\u0301", "\u00e9"), ("\u00e9", "e\u0301"), ("e\u0301", "e\u0301")])
def test_a_caption_file_may_spell_an_accent_in_another_way(tmp_path: Path, picture: str, text: str) -> None:
    save(tmp_path / "pictures" / f"{picture}.png")
    (tmp_path / "pictures" / f"{text}.txt").write_text("it")
    found = scanned(LocalFolder(tmp_path / "pictures"), tmp_path, with_captions=True)
    assert [(row.key, row.captions) for row in rows(found)] == [(f"{picture}.png", ["it"])]


def test_an_interrupted_scan_keeps_what_it_found(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Watched):
        def open(self, key: str) -> BinaryIO:
            if len(self.opened) == 250:
                raise KeyboardInterrupt
            return super().open(key)

    for number in range(300):
        save(pictures / f"{number:03}.bmp", (8, 8))
    monkeypatch.setattr(manifests, "_SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(manifests, "_SAVE_AT_MOST", 0)
    with pytest.raises(KeyboardInterrupt):
        scanned(Interrupted(pictures), tmp_path)
    source = Watched(pictures)
    assert len(scanned(source, tmp_path)) == 303
    assert len(source.opened) == 103


def test_an_interrupted_scan_does_not_forget_what_was_known_of_the_files_that_it_did_not_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Watched):
        def read(self, key: str) -> bytes:
            if key.startswith("150"):
                raise KeyboardInterrupt
            return super().read(key)

    root = tmp_path / "pictures"
    for number in range(200):
        save(root / f"{number:03}.bmp", (8, 8), seed=number)
        (root / f"{number:03}.txt").write_text("before")
    source = Watched(root)
    first = scanned(source, tmp_path, with_captions=True).with_digests(source, np.arange(200), lambda count: None)
    for number in range(200):
        (root / f"{number:03}.txt").write_text("afterwards")
    monkeypatch.setattr(manifests, "_SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(manifests, "_SAVE_AT_MOST", 0)
    with pytest.raises(KeyboardInterrupt):
        scanned(Interrupted(root), tmp_path, with_captions=True)
    source.opened.clear()
    found = scanned(source, tmp_path, with_captions=True)
    assert source.opened == [f"{number:03}.txt" for number in range(100, 200)]
    assert [row.digest for row in rows(found)] == [row.digest for row in rows(first)]
    assert captions(found) == [["afterwards"]] * 200


def test_many_rows_are_the_same_as_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Item(f"{number:03}.png", "1", 5, str(number), Size(7, number + 1)) for number in range(25)]
    whole = scanned(Listed(*items), tmp_path / "whole")
    monkeypatch.setattr(scans, "_PIECE", 4)
    assert scanned(Listed(*items), tmp_path / "pieces").table.equals(whole.table)


@pytest.mark.parametrize("damage", [b"", b"PAR1 nonsense", None])
def test_a_damaged_manifest_is_made_anew(pictures: Path, tmp_path: Path, damage: bytes | None) -> None:
    first = scanned(Watched(pictures), tmp_path)
    path = tmp_path / "m.parquet"
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    assert scanned(Watched(pictures), tmp_path).table.equals(first.table)


def test_bad_files_are_kept_with_the_reason_and_not_opened_again(pictures: Path, tmp_path: Path) -> None:
    (pictures / "empty.jpg").touch()
    (pictures / "random.png").write_bytes(bytes(range(256)) * 4)
    (pictures / "phone.heic").write_bytes(b"x")
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    source = Watched(pictures)
    problems = {row.key: row.problem for row in rows(scanned(source, tmp_path)) if row.problem}
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
    for _ in range(2):
        found = scanned(Watched(pictures), tmp_path)
        assert [skipped.detail for skipped in found.nameless] == ["its name is not valid UTF-8; rename it"]
        assert len(found) == 3


def test_names_of_all_alphabets_are_kept(tmp_path: Path) -> None:
    names = ["a\tb.png", "ä.png", "名前.png", "🦊.png"]
    folder(tmp_path / "pictures", dict.fromkeys(names, (32, 32)))
    for _ in range(2):
        assert [row.key for row in rows(scanned(Watched(tmp_path / "pictures"), tmp_path))] == sorted(names)


def test_hidden_files_system_folders_and_circles_of_links_are_passed_over(pictures: Path, tmp_path: Path) -> None:
    for name in (".hidden.png", ".Trashes/x.png", ".ipynb_checkpoints/x.png"):
        save(pictures / name)
    (pictures / "__MACOSX").mkdir()
    (pictures / "__MACOSX" / "._x.png").touch()
    (pictures / "deep" / "circle").symlink_to(pictures)
    save(tmp_path / "elsewhere" / "linked.png")
    (pictures / "link").symlink_to(tmp_path / "elsewhere")
    keys = [row.key for row in rows(scanned(Watched(pictures), tmp_path))]
    assert keys == ["a.jpg", "b.png", "deep/er/c.webp", "link/linked.png"]


def test_folders_inside_can_be_left_alone(pictures: Path, tmp_path: Path) -> None:
    source = LocalFolder(pictures, wanted(), recursive=False)
    assert [row.key for row in rows(scanned(source, tmp_path))] == ["a.jpg", "b.png"]


def test_a_folder_with_the_name_of_an_image_is_still_a_folder(tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "odd.jpg" / "a.png")
    assert [row.key for row in rows(scanned(Watched(tmp_path / "pictures"), tmp_path))] == ["odd.jpg/a.png"]


def test_nothing_is_written_beside_the_images(pictures: Path, tmp_path: Path) -> None:
    def listing() -> Iterator[tuple[str, float]]:
        for parent, folders, files in os.walk(pictures):
            for name in [*folders, *files]:
                yield os.path.join(parent, name), os.stat(os.path.join(parent, name)).st_mtime

    before = sorted(listing())
    source = Watched(pictures)
    scanned(source, tmp_path, with_captions=True).with_digests(source, np.arange(3), lambda count: None)
    assert sorted(listing()) == before


def test_a_cache_folder_that_cannot_be_written_is_told(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*cache/m.parquet: .*A file is in the way"):
        scanned(Watched(pictures), tmp_path / "cache")


def test_a_vanished_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone.*: no such file or directory. Check instance_data_dir"):
        list(Watched(tmp_path / "gone").items())


def test_listing_gives_facts_without_opening(pictures: Path) -> None:
    source = Watched(pictures)
    items = {item.key: item for item in source.items()}
    found = (pictures / "a.jpg").stat()
    assert items["a.jpg"] == Item("a.jpg", f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}", found.st_size)
    assert source.opened == []


def test_listing_does_not_keep_folders_open(pictures: Path) -> None:
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("this system does not list open files")
    before = len(list(handles.iterdir()))
    for _ in range(3):
        list(Watched(pictures).items())
        next(Watched(pictures).items())
    assert len(list(handles.iterdir())) == before


def test_what_a_source_knows_is_not_looked_up_in_its_files(tmp_path: Path) -> None:
    item = Item("b.png", "1", 5, "abc", Size(7, 8), ("one", "two"))
    lost = Item("a.png", "1", 0, problem="nobody answers")
    found = scanned(Listed(item, lost), tmp_path)
    assert rows(found) == [
        Row("a.png", "1", 0, problem="left out: nobody answers"),
        Row("b.png", "1", 5, 7, 8, digest="abc", captions=["one", "two"]),
    ]


def test_what_a_source_says_anew_counts_even_when_its_files_are_the_same(tmp_path: Path) -> None:
    item = Item("a.png", "1", 5, "abc", Size(7, 8), ("before",))
    scanned(Listed(item), tmp_path)
    found = scanned(Listed(item._replace(captions=("after",))), tmp_path)
    assert captions(found) == [["after"]]
    assert captions(scanned(Listed(item._replace(captions=None)), tmp_path)) == [None]


def test_a_caption_file_goes_before_what_the_source_says_only_while_caption_files_are_wanted(tmp_path: Path) -> None:
    class Both(LocalFolder):
        def items(self) -> Iterator[Item]:
            for item in super().items():
                yield item._replace(captions=("said",)) if item.key.endswith(".png") else item

    root = folder(tmp_path / "pictures", {"a.png": (64, 64), "b.png": (64, 64)})
    (root / "a.txt").write_text("written")
    source = Both(root, wanted())
    for with_captions in (True, False, True, True, False):
        found = scanned(source, tmp_path, with_captions=with_captions)
        assert captions(found) == [["written"] if with_captions else ["said"], ["said"]]


def test_a_problem_goes_when_the_source_has_the_image_after_all(tmp_path: Path) -> None:
    lost = Item("a.png", "", 0, problem="nobody answers")
    scanned(Listed(lost), tmp_path)
    assert rows(scanned(Listed(Item("a.png", "1", 5, "abc", Size(7, 8))), tmp_path))[0].problem == ""


_SCANNING = """
import sys
from pathlib import Path
import numpy as np
from simpletuner.data import manifest
from simpletuner.data.scan import scan
from simpletuner.data.sources.local import LocalFolder
from simpletuner.data.sources.base import wanted
manifest._SAVE_EVERY_SECONDS, manifest._SAVE_AT_MOST = 0.0, 0
source = LocalFolder(Path(sys.argv[1]), wanted())
print("begins", flush=True)
found = scan(source, Path(sys.argv[2]), caption_extension=".txt", with_captions=True, advance=lambda count: None)
missing = np.flatnonzero(found.is_empty("digest"))
if len(missing):
    found.with_digests(source, missing, lambda count: None)
"""


def test_a_scan_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for number in range(600):
        save(root / f"{number % 7}" / f"{number}.bmp", (8 + number % 30, 9), seed=number)
        (root / f"{number % 7}" / f"{number}.txt").write_text(f"picture {number}")
    undisturbed, killed = tmp_path / "a" / "m.parquet", tmp_path / "b" / "m.parquet"
    command = [sys.executable, "-c", _SCANNING, str(root)]
    subprocess.run([*command, str(undisturbed)], check=True, capture_output=True)
    for delay in (0.0, 0.02, 0.05, 0.1, 0.15):
        process = subprocess.Popen([*command, str(killed)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"begins\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    assert load(killed).equals(load(undisturbed))
    assert len(load(killed)) == 600
