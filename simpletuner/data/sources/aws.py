"""Images in a bucket of any S3-compatible service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from simpletuner.data.items import Item
from simpletuner.data.sources.base import DataBackend, wanted
from simpletuner.errors import DataError
from simpletuner.schema import Section, conflict
from simpletuner.storage.ranged import open_ranged
from simpletuner.storage.s3 import S3Store, folder_prefix, is_checksum, version_of
from simpletuner.storage.s3_client import Address
from simpletuner.storage.s3_objects import Found, Objects


def _secret(value: Any) -> Any:
    """Text; a value of another kind must not be quoted in an error either."""
    if isinstance(value, (bool, dict, list, tuple)):
        raise ValueError("must be text")
    return str(value) if isinstance(value, (int, float)) else value


Secret = Annotated[SecretStr, BeforeValidator(_secret)]
"""Text that is never shown."""


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.username or parts.password:
        raise ValueError("must not hold a user or a password; use aws_access_key_id and aws_secret_access_key")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"must begin with https:// or http:// and name the service, got '{value}'")
    return value


def _bucket_name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,255}|arn:.+", value) is None:
        raise ValueError(
            f"'{value}' is no name for a bucket; give the name alone, and put folders into aws_data_prefix"
        )
    return value


BucketName = Annotated[str, AfterValidator(_bucket_name)]
"""The name of a bucket, and nothing around it."""


class Login(Section):
    """How to reach a service with buckets."""

    aws_endpoint_url: Annotated[str, AfterValidator(_web_address)] | None = None
    """The address of the service, for any that is not Amazon's."""
    aws_access_key_id: Secret | None = None
    """Who you are, such as {env:NAME}; found in the usual AWS variables and files unless given."""
    aws_secret_access_key: Secret | None = None
    """Your secret, such as {env:NAME}; found in the usual AWS variables and files unless given."""
    aws_region_name: str | None = None
    """Where the bucket is."""
    aws_data_prefix: str = ""
    """The folder in the bucket."""
    aws_max_pool_connections: int = Field(default=128, ge=1)
    """How many connections are open at once."""

    @model_validator(mode="after")
    def _both_keys(self) -> Login:
        keys = {"aws_access_key_id": self.aws_access_key_id, "aws_secret_access_key": self.aws_secret_access_key}
        missing = [name for name, key in keys.items() if key is None]
        if len(missing) == 1:
            other = next(name for name in keys if name not in missing)
            raise conflict(missing[0], f"is required together with {other}")
        return self

    def address(self, bucket: str, *, owner: str = "") -> Address:
        """A bucket of this service; `owner` is the entry that names it, for messages."""
        return Address(
            bucket,
            self.aws_endpoint_url,
            self.aws_region_name,
            self.aws_access_key_id,
            self.aws_secret_access_key,
            self.aws_max_pool_connections,
            owner,
        )


class Bucket(Login):
    """Which bucket, and how to reach it."""

    aws_bucket_name: BucketName
    """The name of the bucket."""


class Aws(DataBackend, Bucket):
    """Images in an S3-compatible bucket; nothing is ever written beside them."""

    def open(self) -> BucketFolder:
        """The folder in the bucket, ready to be listed; nothing is asked of the service yet."""
        objects = Objects(self.address(self.aws_bucket_name, owner=f"data set '{self.id}'"))
        return BucketFolder(objects, self.aws_data_prefix, wanted(self.caption_extension))

    def store(self, prefix: str = "") -> S3Store:
        """A folder of the bucket as a place for bytes; it is not looked for below aws_data_prefix, where images are."""
        return S3Store(self.address(self.aws_bucket_name, owner=f"data set '{self.id}'"), folder_prefix(prefix))


class BucketFolder:
    """Lists and reads image files and caption files below a folder of a bucket."""

    def __init__(self, objects: Objects, prefix: str, suffixes: frozenset[str]) -> None:
        """`suffixes` are the endings of the files that are listed, in small letters."""
        self.prefix = folder_prefix(prefix)
        self.lanes = min(_LANES, objects.address.connections)
        self._objects = objects
        self._suffixes = suffixes

    def items(self) -> Iterator[Item]:
        """Every image and every caption file; hidden files and folders are passed over."""
        for found in self._objects.list(self.prefix):
            key = found.key[len(self.prefix) :]
            if self._is_wanted(key):
                yield Item(key, version_of(found), found.size, digest=_digest(found))

    def read(self, key: str) -> bytes:
        """The whole content of a file; a DataError names it when it cannot be read."""
        try:
            return self._objects.read(self.prefix + key)
        except KeyError as error:
            raise self._gone(key) from error

    def open(self, key: str) -> BinaryIO:
        """The file itself, to look at its first bytes; no more of it travels than is looked at."""
        full = self.prefix + key
        try:
            head = self._objects.read_part(full, 0, _HEAD)
        except KeyError as error:
            raise self._gone(key) from error
        return open_ranged(partial(self._part, key, head.etag), head.data, head.size)

    def name(self, key: str) -> str:
        """Such as s3://bucket/folder/a.jpg."""
        return self._objects.address.named(self.prefix + key)

    def _is_wanted(self, key: str) -> bool:
        path = PurePosixPath(key)
        return path.suffix.lower() in self._suffixes and not any(part.startswith(".") for part in path.parts)

    def _part(self, key: str, etag: str, start: int, length: int) -> bytes:
        try:
            return self._objects.read_part(self.prefix + key, start, length, etag=etag).data
        except KeyError as error:
            raise self._gone(key) from error

    def _gone(self, key: str) -> DataError:
        return DataError(f"cannot read {self.name(key)}: it is not there any more. Start again, and it is left out.")


def _digest(found: Found) -> str:
    """The checksum that the service keeps, where it looks like one; the size guards against services that cheat."""
    return f"{found.etag}-{found.size}" if is_checksum(found.etag) else ""


_LANES = 32
_HEAD = 32 * 2**10
