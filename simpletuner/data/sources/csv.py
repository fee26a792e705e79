"""A table of addresses and captions: each image is downloaded once, and read from there ever after."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, ClassVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from pydantic import Field

from simpletuner.data.items import Item
from simpletuner.data.sources.base import IMAGE_SUFFIXES, OTHER_PICTURES, DataBackend
from simpletuner.data.web import url_list
from simpletuner.data.web.connections import Limits, is_any, is_public, shown
from simpletuner.data.web.downloads import Downloads, Fetched, key_of, name_of
from simpletuner.data.web.url_list import Columns, UrlList
from simpletuner.errors import DataError
from simpletuner.progress import Notice, Reporter, Several
from simpletuner.storage.local import LocalStore, version_of


class Csv(DataBackend):
    """Images from the web, listed in a CSV table with their captions; each one is downloaded once."""

    place_option: ClassVar[str] = "csv_file"
    own_strategy: ClassVar[str] = "csv"

    csv_file: Path
    """The table; its first line names the columns, and paths in it are relative to its folder."""
    csv_cache_dir: Path
    """Where downloaded images are kept."""
    csv_caption_column: str
    """The column with captions; several rows with one address give alternatives."""
    csv_url_column: str = "url"
    """The column with addresses that begin with http:// or https://, or with paths of files on this machine."""
    csv_max_workers: int = Field(default=16, ge=1, le=256)
    """How many images are downloaded at once."""
    csv_timeout: float = Field(default=30.0, gt=0)
    """Seconds without an answer after which a download is given up; as a whole it may take ten times as long."""
    csv_max_file_size: int = Field(default=64 * 2**20, ge=1)
    """The largest file that is downloaded, in bytes."""
    csv_allow_private_addresses: bool = False
    """Whether addresses in the table may lead to this machine and to private networks."""

    @property
    def place(self) -> str:
        """The table, and what of it is listed."""
        folder = self.csv_cache_dir.absolute()
        return f"{self.csv_file.absolute()} {self.csv_url_column} {self.csv_caption_column} {folder}"

    def open(self) -> CsvImages:
        """The images of the table; they are downloaded when they are prepared or listed."""
        limits = Limits(
            max_bytes=self.csv_max_file_size,
            stall=self.csv_timeout,
            connect=min(self.csv_timeout, Limits().connect),
            total=10 * self.csv_timeout,
        )
        downloads = Downloads(
            LocalStore(self.csv_cache_dir),
            limits,
            workers=self.csv_max_workers,
            may_connect=is_any if self.csv_allow_private_addresses else is_public,
        )
        columns = Columns(self.csv_url_column, self.csv_caption_column)
        return CsvImages(self.csv_file, columns, downloads, self.csv_cache_dir, id=self.id)


class CsvImages:
    """The images of a table under the names that they have in their addresses.

    Where several addresses have the same name, a checksum of the address is added. Files on this machine are read
    where they are.
    """

    lanes = 1

    def __init__(self, table: Path, columns: Columns, downloads: Downloads, folder: Path, *, id: str) -> None:
        """`folder` is where `downloads` keeps its files."""
        self._table = table
        self._columns = columns
        self._downloads = downloads
        self._folder = folder
        self._id = id
        self._prepared: tuple[UrlList, Fetched] | None = None
        self._failures: Mapping[str, str] | None = None
        self._addresses: Mapping[str, str] = {}

    def prepare(self, reporter: Reporter) -> None:
        """Download what is missing, and say what could not be downloaded; a DataError when nothing could be."""
        listed = self._rows()
        _sweep(self._folder)
        urls = list(filter(_is_url, listed.images))
        stage = f"downloading images of data set '{self._id}'"
        fetched = self._downloads.fetch(urls, reporter, stage=stage)
        for text in self._remarks(listed, fetched, len(urls)):
            reporter.report(Notice(f"data set '{self._id}': {text}"))
        self._prepared, self._failures = (listed, fetched), fetched.failures

    def items(self) -> Iterator[Item]:
        """Every image of the table, with its captions; what could not be downloaded has the reason with it."""
        listed, fetched = self._listing()
        self._addresses = _named(listed, fetched)
        for key, address in self._addresses.items():
            yield self._item(key, address, listed.images[address], fetched)

    def read(self, key: str) -> bytes:
        """The whole content of a file; a DataError names it when it cannot be read."""
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {self._path(key)}, which is {self.name(key)}: {(error.strerror or str(error)).lower()}. "
                f"Start again: what is missing is downloaded anew."
            ) from error

    def open(self, key: str) -> BinaryIO:
        """The file itself, to look at its first bytes."""
        return self._path(key).open("rb")

    def name(self, key: str) -> str:
        """The address of an image, without what may be secret in it, or the path of a file on this machine."""
        if not key:
            return str(self._table)
        address = self._address(key)
        if _is_local(address):
            return str(_local(address, self._table))
        return shown(address) if shown(address).endswith(f"/{key}") else f"{shown(address)} ({key})"

    def _path(self, key: str) -> Path:
        address = self._address(key)
        if _is_local(address):
            return _local(address, self._table)
        return self._folder / key_of(name_of(address), PurePosixPath(key).suffix)

    def _address(self, key: str) -> str:
        if key not in self._addresses:
            for _ in self.items():  # somebody reads before listing
                break
        if key not in self._addresses:
            raise DataError(f"{self._table} has no image '{key}' any more; start again to list what is there now.")
        return self._addresses[key]

    def _listing(self) -> tuple[UrlList, Fetched]:
        """What was prepared, the first time; later what is there now, without asking anybody again."""
        if self._failures is None:
            self.prepare(Several())
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            return prepared
        return self._rows(), Fetched(self._downloads.files(), self._failures or {})

    def _rows(self) -> UrlList:
        try:
            return url_list.read(self._table, self._columns)
        except DataError as error:
            raise DataError(f"data set '{self._id}': {error}") from error

    def _item(self, key: str, address: str, captions: tuple[str, ...], fetched: Fetched) -> Item:
        if not _is_url(address):
            return _local_item(key, address, captions, self._table)
        name = name_of(address)
        if name in fetched.files:
            entry = fetched.files[name]
            return Item(key, entry.version, entry.size, captions=captions)
        reason = fetched.failures.get(name, "its row is new; start again")
        return Item(key, "", 0, captions=captions, problem=f"cannot be downloaded: {reason}")

    def _remarks(self, listed: UrlList, fetched: Fetched, urls: int) -> Iterator[str]:
        """What the user should know after the downloads."""
        if listed.without_address:
            rows, have, are = ("row", "has", "is") if listed.without_address == 1 else ("rows", "have", "are")
            yield f"{listed.without_address} {rows} of {self._table} {have} no address and {are} left out"
        if not fetched.failures:
            return
        reasons = Counter(fetched.failures.values()).most_common()
        counted = "; ".join(f"{count} because {reason}" for reason, count in reasons)
        text = f"{len(fetched.failures)} of {urls} images cannot be downloaded: {counted}"
        if len(fetched.failures) == len(listed.images):
            raise DataError(f"data set '{self._id}': {text}. Check the network, and csv_url_column in {self._table}.")
        yield f"{text}. What is gone for good is not asked for again unless you delete {self._downloads.memory}"


def _named(listed: UrlList, fetched: Fetched) -> dict[str, str]:
    """The address of each image by the name in it, which gets a checksum where it is not the only one."""
    stems = [_stem(address) for address in listed.images]
    counts = Counter(stems)
    found: dict[str, str] = {}
    for address, stem in zip(listed.images, stems, strict=True):
        name = name_of(address)
        entry = fetched.files.get(name) if _is_url(address) else None
        suffix = _suffix(address) if entry is None else f".{entry.key.rpartition('.')[2]}"
        key = f"{stem if counts[stem] == 1 else f'{stem}-{name[:16]}'}{suffix}"
        found[key if key not in found else f"{name}{suffix}"] = address
    return found


def _is_url(address: str) -> bool:
    return address[:8].lower().startswith(("http://", "https://"))


def _is_local(address: str) -> bool:
    return not _is_url(address) and not _OTHER_SCHEME.match(address)


def _local(address: str, table: Path) -> Path:
    """The file on this machine that an address means, relative to the folder of the table."""
    if address[:5].lower() == "file:":
        return Path(url2pathname(urlsplit(address).path))
    return table.parent / address


def _local_item(key: str, address: str, captions: tuple[str, ...], table: Path) -> Item:
    if not _is_local(address):
        problem = "its address begins neither with https:// nor with http://, and is no path"
        return Item(key, "", 0, captions=captions, problem=problem)
    try:
        found = os.stat(_local(address, table))
    except (OSError, ValueError):
        problem = "there is no such file; paths are relative to the folder of the table"
        return Item(key, "", 0, captions=captions, problem=problem)
    return Item(key, version_of(found), found.st_size, captions=captions)


def _stem(address: str) -> str:
    """The name of the file in an address, without its ending and without anything that a path cannot have."""
    name = unquote(_path_of(address)).replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem = _UNPRINTABLE.sub("_", PurePosixPath(name).stem).strip(". ")
    return stem[:_LONGEST] or "image"


def _suffix(address: str) -> str:
    """The ending that an address has, for files that were not looked at; nothing when it is that of no picture."""
    suffix = PurePosixPath(unquote(_path_of(address))).suffix
    return suffix if suffix.lower() in IMAGE_SUFFIXES | OTHER_PICTURES else ""


def _path_of(address: str) -> str:
    """The part of an address that is a path; an address that is a path has no other parts."""
    if _is_local(address) and address[:5].lower() != "file:":
        return address
    try:
        return urlsplit(address).path
    except ValueError:  # no address at all, which the download will say
        return ""


def _sweep(folder: Path) -> None:
    """Remove halves of files that a killed process left behind; nobody writes a file for an hour."""
    for path in (*folder.glob(".*.part"), *folder.glob("??/.*.part")):
        with suppress(OSError):  # gone by itself, or not ours to remove
            if path.stat().st_mtime < time.time() - _AN_HOUR:
                path.unlink()


_OTHER_SCHEME = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f/\\:]")

_LONGEST = 120
_AN_HOUR = 3600.0
