"""What only files on a disk can do wrong."""

import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simpletuner.errors import DataError
from simpletuner.storage.local import LocalStore, write_whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_told_in_the_users_words_and_the_old_content_stays(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    store.write("latents", b"old")
    with pytest.raises(DataError, match=r"cannot write .*disk/latents: no space left on device\. Free some space"):
        store.write("latents", bytes(200_000))
    assert store.read("latents") == b"old"
    assert os.listdir(small_disk) == ["latents"]


def test_a_read_only_disk_is_told_in_the_users_words(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(DataError, match=r"read-only file system\. The disk is mounted read-only: choose a folder"):
        LocalStore(small_disk).write("a", b"")


def test_a_file_where_a_folder_should_be_is_told_in_the_users_words(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(DataError, match="A file is in the way where a folder is needed"):
        LocalStore(tmp_path / "cache").write("a", b"")


def test_half_written_files_of_a_killed_process_are_never_listed_or_read(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("spawn").Process(target=_write_forever, args=(tmp_path,))
    writer.start()
    while not (tmp_path / "big").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    writer.kill()
    writer.join()
    store = LocalStore(tmp_path)
    assert [entry.key for entry in store.entries()] == ["big"]
    data = store.read("big")
    assert len(data) == 2_000_000
    assert len(set(data)) == 1


def _write_forever(folder: Path) -> None:
    while True:
        for byte in (b"a", b"b"):
            write_whole(folder / "big", byte * 2_000_000)
