"""A folder on this machine, with everything below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from simpletuner.data.items import Item
from simpletuner.data.sources.base import CAPTION_SUFFIX, IMAGE_SUFFIXES, OTHER_PICTURES, DataBackend
from simpletuner.errors import DataError
from simpletuner.storage.local import version_of


class Local(DataBackend):
    """Images in a folder on this machine and the folders below it."""

    instance_data_dir: Path
    """The folder with the images; nothing is ever written there."""

    def open(self) -> LocalFolder:
        """The folder, ready to be listed."""
        return LocalFolder(self.instance_data_dir)


class LocalFolder:
    """Lists and reads image files and caption files below a folder, following links."""

    lanes = 1

    def __init__(self, root: Path) -> None:
        self.root = root

    def items(self) -> Iterator[Item]:
        """Every image and every caption file; hidden files and folders of operating systems are passed over."""
        folders, seen = [""], set[tuple[int, int]]()
        while folders:
            prefix = folders.pop()
            try:
                found = os.stat(self.root / prefix)
                if (found.st_dev, found.st_ino) not in seen:  # a link may lead back to where we came from
                    seen.add((found.st_dev, found.st_ino))
                    yield from self._list(prefix, folders)
            except OSError as error:
                raise self._unreadable(prefix, error) from error

    def read(self, key: str) -> bytes:
        """The whole content of a file; a DataError names it when it cannot be read."""
        try:
            return (self.root / key).read_bytes()
        except OSError as error:
            raise self._unreadable(key, error) from error

    def open(self, key: str) -> BinaryIO:
        """The file itself, to look at its first bytes."""
        return open(f"{self.root}/{key}", "rb")  # noqa: SIM115  # the caller closes it; half the time of Path.open

    def name(self, key: str) -> str:
        """The path of a file."""
        return str(self.root / key)

    def _list(self, prefix: str, folders: list[str]) -> Iterator[Item]:
        with os.scandir(self.root / prefix) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name in _SYSTEM_FOLDERS:
                    continue
                if _is_folder(entry):
                    folders.append(f"{prefix}{name}/")
                elif os.path.splitext(name)[1].lower() in _WANTED:
                    yield self._item(prefix + name, entry)

    def _item(self, key: str, entry: os.DirEntry[str]) -> Item:
        try:
            found = entry.stat()
        except OSError:  # a link to nothing, or gone since it was listed: opening it will say so
            return Item(key, "", 0)
        return Item(key, version_of(found), found.st_size)

    def _unreadable(self, key: str, error: OSError) -> DataError:
        return DataError(
            f"cannot read {self.name(key)}: {(error.strerror or str(error)).lower()}. "
            f"Check instance_data_dir and that you may read what is in it."
        )


_WANTED = IMAGE_SUFFIXES | OTHER_PICTURES | {CAPTION_SUFFIX}

_SYSTEM_FOLDERS = {".Trashes", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".zfs", ".ipynb_checkpoints"}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False
