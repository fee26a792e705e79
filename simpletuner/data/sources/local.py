"""A folder on this machine, with everything below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar

from simpletuner.data.items import Item
from simpletuner.data.sources.base import DataBackend, wanted
from simpletuner.errors import DataError
from simpletuner.storage.local import version_of


class Local(DataBackend):
    """Images in a folder on this machine and the folders below it."""

    place_option: ClassVar[str] = "instance_data_dir"

    instance_data_dir: Path
    """The folder with the images; nothing is ever written there."""

    recursive: bool = True
    """Whether folders inside the folder are looked through too."""

    @property
    def place(self) -> str:
        """The folder, and which files in it are listed."""
        return f"{self.instance_data_dir.absolute()} {self.recursive} {self.caption_extension}"

    def open(self) -> LocalFolder:
        """The folder, ready to be listed."""
        return LocalFolder(self.instance_data_dir, wanted(self.caption_extension), recursive=self.recursive)


_USUAL = wanted()


class LocalFolder:
    """Lists and reads image files and caption files below a folder, following links."""

    lanes = 1

    def __init__(self, root: Path, suffixes: frozenset[str] = _USUAL, *, recursive: bool = True) -> None:
        """`suffixes` are the endings of the files that are listed, in small letters."""
        self.root = root
        self._suffixes = suffixes
        self._recursive = recursive

    def items(self) -> Iterator[Item]:
        """Every image and every caption file; hidden files and folders of operating systems are passed over."""
        folders, seen = [""], set[tuple[int, int]]()
        while folders:
            prefix = folders.pop()
            try:
                with _folder(f"{self.root}/{prefix}") as handle:
                    found = os.stat(handle)
                    if (found.st_dev, found.st_ino) not in seen:  # a link may lead back to where we came from
                        seen.add((found.st_dev, found.st_ino))
                        yield from self._list(handle, prefix, folders)
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

    def _list(self, folder: int | str, prefix: str, folders: list[str]) -> list[Item]:
        """The files of one folder; adds the folders in it to those that are still to be listed."""
        found, suffixes = list[Item](), self._suffixes
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                if _is_folder(entry):
                    if self._recursive and name not in _SYSTEM_FOLDERS:
                        folders.append(f"{prefix}{name}/")
                elif name[name.rfind(".") :].lower() in suffixes:
                    found.append(_item(prefix + name, entry))
        return found

    def _unreadable(self, key: str, error: OSError) -> DataError:
        return DataError(
            f"cannot read {self.name(key)}: {(error.strerror or str(error)).lower()}. "
            f"Check instance_data_dir and that you may read what is in it."
        )


_SYSTEM_FOLDERS = {".Trashes", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".zfs", ".ipynb_checkpoints"}


@contextmanager
def _folder(path: str) -> Iterator[int | str]:
    """A folder to look files up in: by its handle, where the system can, so that no path is followed for each file."""
    if os.scandir not in os.supports_fd:
        yield path
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _item(key: str, entry: os.DirEntry[str]) -> Item:
    try:
        found = entry.stat()
    except OSError:  # a link to nothing, or gone since it was listed: opening it will say so
        return Item(key, "", 0)
    return Item(key, version_of(found), found.st_size)
