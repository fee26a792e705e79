"""Files in a folder, written so that they appear whole or not at all, whatever interrupts us."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile

from simpletuner.errors import DataError
from simpletuner.storage.store import Entry, checked


class LocalStore:
    """Keeps each key as a file below a root folder, which is made at the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        """The path of the folder."""
        return str(self.root)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Everything whose key starts with `prefix`, in the order of the keys."""
        yield from sorted(self._walk(self._folder_of(prefix), prefix))

    def read(self, key: str) -> bytes:
        """The bytes under a key; KeyError when there are none."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise KeyError(key) from error

    def write(self, key: str, data: bytes) -> None:
        """Keep bytes under a key; DataError when the disk is full or the folder cannot be written."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except OSError as error:
            raise cannot_write(path, error) from error

    def try_out(self) -> None:
        """Raise the DataError of a folder that cannot be written, before there is anything to write."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise cannot_write(self.root, error) from error

    def __contains__(self, key: str) -> bool:
        """Whether there is something under this key."""
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """Remove the file of a key; nothing happens when there is none."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise cannot_write(path, error) from error

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    def _folder_of(self, prefix: str) -> Path:
        folder = prefix.rpartition("/")[0]
        return self.root / checked(folder) if folder else self.root

    def _walk(self, folder: Path, prefix: str) -> Iterator[Entry]:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.endswith(_TEMPORARY):
                    found = path.stat()
                    yield Entry(key, found.st_size, version_of(found))


def write_whole(path: Path, data: bytes) -> None:
    """Put a file in place in one step: readers see the old content or the new, also after a power cut.

    The folder must exist. Raises OSError when the disk does not take it; what was there before then stays.
    """
    beside = path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Put a folder in place whole, instead of one that is there; `write` fills it under another name.

    Raises OSError when the disk does not take it; what was there before then stays.
    """
    partial, gone = (path.with_name(f".{path.name}{ending}") for ending in (".partial", ".removed"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        if path.exists():
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(gone, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> DataError:
    """The same failure in the user's words: which place, what happened, what to change."""
    return DataError(f"cannot write {path}: {(error.strerror or str(error)).lower()}. {_remedy(error)}")


def version_of(found: os.stat_result) -> str:
    """What tells one content of a file from another without reading it.

    The time of the last change of any kind is part of it: a program can set the time of the last write back, but not
    this one.
    """
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and needs no such call
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remedy(error: OSError) -> str:
    return _REMEDIES.get(error.errno or 0, "Check that the folder exists, or choose another one in the config.")


_TEMPORARY = ".part"

_REMEDIES = {
    errno.ENOSPC: "Free some space, or choose a folder on a larger disk in the config.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or choose another folder in the config.",
    errno.EROFS: "The disk is mounted read-only: choose a folder you may write to in the config.",
    errno.EACCES: "You may not write there: change the permissions, or choose another folder in the config.",
    errno.EPERM: "You may not write there: change the permissions, or choose another folder in the config.",
    errno.ENOTDIR: "A file is in the way where a folder is needed: move it, or choose another folder in the config.",
    errno.EISDIR: "A folder is in the way where a file is needed: move it, or choose another place in the config.",
    errno.EEXIST: "A file is in the way where a folder is needed: move it, or choose another folder in the config.",
}
