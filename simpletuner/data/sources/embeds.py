"""Entries of the data file that hold no images: where encoded captions and images are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import model_validator

from simpletuner.data.sections import EntryName
from simpletuner.data.sources.aws import BucketName, Login
from simpletuner.data.sources.memory import MemoryFolder
from simpletuner.errors import DataError
from simpletuner.schema import NoEffect, TextList, conflict, words
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore
from simpletuner.storage.s3 import S3Store, folder_prefix
from simpletuner.storage.store import Store

PLACES = words(
    "place for a cache",
    {
        "local": "A folder on this machine.",
        "aws": "An S3-compatible bucket.",
        "memory": "The memory of the process; everything is encoded anew in each run.",
    },
)

_RESCANNED = NoEffect("caches are addressed by content, so nothing outdated is ever used")


class Embeds(Login, MemoryFolder):
    """A cache that data sets can share."""

    id: EntryName
    """The name of the cache, of your choice; each one is used once."""
    type: Annotated[str, PLACES] = "local"
    """Where the cache is."""
    dataset_type: str = "text_embeds"
    """What the cache is for."""
    disabled: bool = False
    """Leaves the cache out, as if its entry were not there."""
    default: bool = False
    """Whether data sets use this cache unless they name another one."""
    cache_dir: Path | None = None
    """The folder of the cache."""
    write_batch_size: Annotated[int | None, NoEffect("the framework chooses this by itself")] = None
    """How many cache files are written at once."""
    preserve_data_backend_cache: Annotated[bool, _RESCANNED] = False
    """Keeps the lists of files from the run before."""
    skip_file_discovery: Annotated[TextList, _RESCANNED] = ()
    """Leaves out parts of the preparation."""
    aws_bucket_name: BucketName | None = None
    """The name of the bucket."""

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, given: Any) -> Any:
        """Another spelling that files in use have."""
        if not isinstance(given, Mapping):
            return given
        return {"disabled" if key == "disable" else key: value for key, value in given.items()}

    @model_validator(mode="after")
    def _names_its_place(self) -> Embeds:
        if self.type == "aws" and self.aws_bucket_name is None:
            raise conflict("aws_bucket_name", "is required by type aws: the bucket that the cache is in")
        return self


class TextEmbeds(Embeds):
    """Where encoded captions are kept."""

    text_encoder_batch_size: Annotated[int | None, NoEffect("use the text_encoder_batch_size of the run")] = None
    """How many captions are encoded at once while the cache is filled."""
    caption_filter_list: TextList = ()
    """What is taken out of captions: words, regular expressions or s/find/replace, or the file that lists them."""
    text_cache_ondemand: bool | None = None
    """Encodes captions when they are first needed instead of before training."""
    text_cache_disable: bool | None = None
    """Never keeps encoded captions."""


class ImageEmbeds(Embeds):
    """Where encoded images are kept."""

    dataset_type: str = "image_embeds"
    """What the cache is for."""


def open_place(entry: Embeds, *, otherwise: Path | None = None) -> Store:
    """The place of a cache, ready to be read and written; a bucket is not asked for anything yet.

    Args:
        entry: The entry of the data file.
        otherwise: The folder on this machine for a local entry that names none.
    """
    return _PLACES[entry.type](entry, otherwise)


def unused_options(entry: Embeds) -> Iterator[tuple[str, str]]:
    """The options of an entry that do nothing because its cache is elsewhere, each with the reason."""
    for name in sorted(entry.model_fields_set):
        if name.startswith("aws_") and entry.type != "aws":
            yield name, f"the cache is not in a bucket; set type to aws if it shall be, it is {entry.type}"
        elif name == "cache_dir" and entry.type == "memory":
            yield name, "the cache is kept in memory, and is gone when the run ends"


def _folder(entry: Embeds, otherwise: Path | None) -> Store:
    folder = entry.cache_dir or otherwise
    if folder is None:
        raise DataError(f"data set '{entry.id}' says nowhere where its cache is. Give it a cache_dir.")
    return LocalStore(folder)


def _bucket(entry: Embeds, otherwise: Path | None) -> Store:
    assert entry.aws_bucket_name is not None, "an entry with type aws names its bucket, or is not read at all"
    below = "" if entry.cache_dir is None else entry.cache_dir.as_posix()
    address = entry.address(entry.aws_bucket_name, owner=f"cache '{entry.id}'")
    return S3Store(address, folder_prefix(entry.aws_data_prefix, below))


def _memory(entry: Embeds, otherwise: Path | None) -> Store:
    return MemoryStore(f"of '{entry.id}'")


_PLACES: Mapping[str, Callable[[Embeds, Path | None], Store]] = {"local": _folder, "aws": _bucket, "memory": _memory}
