"""Where shards are: in a folder, on a web server, or in a data set on the Hub; all are read by range."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from simpletuner.data.lanes import together
from simpletuner.data.sources.shards.ranges import Ranges
from simpletuner.data.web.connections import shown
from simpletuner.errors import DataError
from simpletuner.storage.local import version_of


class Shard(NamedTuple):
    """One tar file."""

    name: str
    """Its path below the place, with its ending."""
    size: int
    version: str
    """Changes whenever its content may have changed; empty when that cannot be told."""

    @property
    def stem(self) -> str:
        """Its path without the ending: keys of its images begin with it."""
        return str(PurePosixPath(self.name).with_suffix(""))


class Place(Protocol):
    """Holds shards, and perhaps indexes of shards: JSON files that say where in a shard each file is."""

    lanes: int
    """How many files are best read at once."""
    piece: int
    """How many bytes are best read at once while looking for the headers in a tar file."""

    def shards(self) -> Sequence[Shard]:
        """All tar files, in the order of their names; a DataError when the place cannot be listed."""

    def fetch(self, shard: Shard, start: int, length: int) -> bytes:
        """A part of a shard; fewer bytes only at its end."""

    def index(self, shard: Shard) -> bytes | None:
        """The index of a shard, if there is one here."""

    def index_version(self, shard: Shard) -> str:
        """Changes whenever the index of a shard may have changed; empty when there is none."""

    def where(self, name: str) -> str:
        """Where a file is, as the user would look for it."""


class FolderPlace:
    """A folder on this machine, or one tar file in it; names may have {000..123} in them."""

    lanes = 1
    piece = 16 * 2**10

    def __init__(self, path: str) -> None:
        self._path = path

    def shards(self) -> Sequence[Shard]:
        """All tar files below the folder."""
        try:
            return sorted(self._shards())
        except OSError as error:
            raise DataError(f"cannot read {error.filename or self._path}: {_words(error)}. {_CHECK_SOURCE}") from error

    def fetch(self, shard: Shard, start: int, length: int) -> bytes:
        """A part of a tar file."""
        try:
            with (self._root / shard.name).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise DataError(f"cannot read {self.where(shard.name)}: {_words(error)}. {_CHECK_SOURCE}") from error

    def index(self, shard: Shard) -> bytes | None:
        """The .json file of the same name beside the tar file, or directly in the folder."""
        path = self._index_path(shard)
        return None if path is None else path.read_bytes()

    def index_version(self, shard: Shard) -> str:
        """When that file was last changed."""
        path = self._index_path(shard)
        return "" if path is None else version_of(path.stat())

    def where(self, name: str) -> str:
        """The path of a file."""
        return str(self._root / name) if name else self._path

    def _index_path(self, shard: Shard) -> Path | None:
        names = (f"{shard.stem}.json", PurePosixPath(shard.stem).name + ".json")
        return next((self._root / name for name in names if (self._root / name).is_file()), None)

    @cached_property
    def _paths(self) -> list[Path]:
        return [Path(path).expanduser() for path in unbraced(self._path)]

    @cached_property
    def _root(self) -> Path:
        first = self._paths[0]
        return first if first.is_dir() else first.parent

    def _shards(self) -> Iterator[Shard]:
        files = self._root.rglob("*") if self._paths[0].is_dir() else iter(self._paths)
        for path in files:
            if is_shard(path.name):
                found = path.stat()
                yield Shard(path.relative_to(self._root).as_posix(), found.st_size, version_of(found))


class WebPlace:
    """Tar files on a web server: the address of one, or of several with {000..123} in it."""

    lanes = 16
    piece = 256 * 2**10

    def __init__(self, address: str) -> None:
        self._address = address
        self._ranges = Ranges()
        self._shards: dict[str, str] = {}

    def shards(self) -> Sequence[Shard]:
        """Each address is asked how large its file is."""
        addresses = [address for address in unbraced(self._address) if is_shard(urlsplit(address).path)]
        if not addresses:
            raise DataError(f"{shown(self._address)} is not the address of a .tar file. {_NAME_THEM}")
        self._shards = dict(zip(_names(addresses), addresses, strict=True))
        found = together(self.lanes, self._ranges.look, list(self._shards.values()))
        return [Shard(name, size, version) for name, (size, version) in zip(self._shards, found, strict=True)]

    def fetch(self, shard: Shard, start: int, length: int) -> bytes:
        """A part of a tar file."""
        return self._ranges.fetch(self._shards[shard.name], start, length)

    def index(self, shard: Shard) -> bytes | None:
        """The .json file of the same name beside the tar file, or in the folder that the address leads to."""
        return self._ranges.whole(self._index_address(shard))

    def index_version(self, shard: Shard) -> str:
        """What the server says about that file."""
        return self._ranges.mark(self._index_address(shard))

    def where(self, name: str) -> str:
        """The address of a file, without what is secret in it."""
        return shown(self._shards.get(name, self._address))

    def _index_address(self, shard: Shard) -> str:
        beside = self._shards.get(shard.name)
        if beside is not None:
            return re.sub(r"\.tar(?=$|\?)", ".json", beside)
        return f"{self._address.rstrip('/')}/{PurePosixPath(shard.stem).name}.json"


class HubPlace:
    """A data set on the Hub with tar files in it."""

    lanes = 16
    piece = 256 * 2**10

    def __init__(self, repository: str, *, subfolder: str | None = None, token: str | None = None) -> None:
        self._repository = repository
        self._subfolder = (subfolder or "").strip("/")
        self._token = token

    def shards(self) -> Sequence[Shard]:
        """All tar files in the repository, or in the subfolder."""
        return sorted(Shard(name, size, version) for name, (size, version) in self._files.items() if is_shard(name))

    def fetch(self, shard: Shard, start: int, length: int) -> bytes:
        """A part of a tar file."""
        return self._ranges.fetch(self._address(shard.name), start, length)

    def index(self, shard: Shard) -> bytes | None:
        """The .json file of the same name, beside the tar file or in any folder of the repository."""
        name = self._index_name(shard)
        return None if name is None else self._ranges.whole(self._address(name))

    def index_version(self, shard: Shard) -> str:
        """The checksum of that file."""
        name = self._index_name(shard)
        return "" if name is None else self._files[name][1]

    def where(self, name: str) -> str:
        """The repository and the path in it."""
        return f"{self._repository}/{name}".rstrip("/")

    def _index_name(self, shard: Shard) -> str | None:
        beside = f"{shard.stem}.json"
        return beside if beside in self._files else self._jsons.get(PurePosixPath(beside).name)

    def _address(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self._repository, name, repo_type="dataset")

    @cached_property
    def _ranges(self) -> Ranges:
        from huggingface_hub import get_token

        token = self._token or get_token()
        return Ranges({"Authorization": f"Bearer {token}"} if token else {})

    @cached_property
    def _jsons(self) -> Mapping[str, str]:
        """The path of each .json file by its name."""
        return {PurePosixPath(path).name: path for path in self._files if path.endswith(".json")}

    @cached_property
    def _files(self) -> Mapping[str, tuple[int, str]]:
        """Size and version of every file."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        with self._failures_told():
            tree = HfApi(token=self._token).list_repo_tree(
                self._repository, self._subfolder or None, recursive=True, repo_type="dataset"
            )
            return {one.path: (one.size, one.blob_id) for one in tree if isinstance(one, RepoFile)}

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        # The error of the HTTP library that the Hub client uses, which has changed over time: the base of its own.
        network_error: type[Exception] = HfHubHTTPError.__bases__[0]
        name = self._repository
        try:
            yield
        except GatedRepoError as error:
            advice = "accept its licence on its page on the Hub, and set hf_token or HF_TOKEN"
            raise DataError(f"{name} is gated: {advice}.") from error
        except RepositoryNotFoundError as error:
            advice = "check its name, and set hf_token or HF_TOKEN for a private one"
            raise DataError(f"{name} is not on the Hub, or not open to you: {advice}.") from error
        except EntryNotFoundError as error:
            raise DataError(f"{name} has no folder '{self._subfolder}'. Change subfolder.") from error
        except (network_error, OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            raise DataError(f"{name} could not be looked up on the Hub: {reason}. {_CHECK_SOURCE}") from error


def place_of(source: str, *, subfolder: str | None = None, token: str | None = None) -> Place:
    """The place that a source names: an address, a path, or else a data set on the Hub."""
    if source.startswith(("http://", "https://")):
        return WebPlace(f"{source.rstrip('/')}/{subfolder}" if subfolder else source)
    path = Path(source).expanduser()
    is_on_the_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith(".") and not is_shard(source)
    if is_on_the_hub and not path.exists():
        return HubPlace(source, subfolder=subfolder, token=token)
    return FolderPlace(str(path / subfolder) if subfolder else str(path))


def is_shard(name: str) -> bool:
    """Whether a file is a tar archive by its name, also a compressed one, which cannot be read by range."""
    return name.lower().endswith((".tar", *COMPRESSED))


def unbraced(text: str) -> list[str]:
    """Every text that is meant by {000..123} or {a,b} in one."""
    found = re.search(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}", text)
    if found is None:
        return [text]
    before, after = text[: found.start()], unbraced(text[found.end() :])
    return [before + one + rest for one in _meant(found[1]) for rest in after]


def _meant(inside: str) -> list[str]:
    limits = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if limits is None:
        return inside.split(",")
    first, last = limits.groups()
    if int(last) - int(first) > _MOST_SHARDS:
        raise DataError(f"{{{inside}}} in source means more than {_MOST_SHARDS:,} shards. Change it.")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _names(addresses: Sequence[str]) -> list[str]:
    """The last part of each address, or its whole path where last parts are equal."""
    paths = [urlsplit(address).path.lstrip("/") for address in addresses]
    lasts = [PurePosixPath(path).name for path in paths]
    return lasts if len(set(lasts)) == len(lasts) else paths


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

_MOST_SHARDS = 1_000_000

_CHECK_SOURCE = "Check source and subfolder."

_NAME_THEM = "A web server cannot be listed: name its shards in source, as in https://host/shard-{000..123}.tar."
