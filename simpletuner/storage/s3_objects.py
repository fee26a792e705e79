"""The objects of one bucket by their full keys; each request is repeated until it succeeds or patience ends."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeVar

from simpletuner.storage.retries import Patience, Tries, Unreachable
from simpletuner.storage.s3_client import Address, connected
from simpletuner.storage.s3_errors import Damaged, code_of, never_arrived, passes, status_of, told, troubles

T = TypeVar("T")


class Found(NamedTuple):
    """An object, as a listing shows it."""

    key: str
    size: int
    etag: str
    """Changes with the content; mostly the MD5 of it."""
    modified: str


class Piece(NamedTuple):
    """A part of an object, with the size of the whole."""

    data: bytes
    size: int
    etag: str


class Objects:
    """Lists, reads and writes objects. Threads may share it; a process that is forked gets connections of its own."""

    def __init__(self, address: Address, patience: Patience | None = None) -> None:
        self.address = address
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._clients: dict[int, Any] = {}  # by process; Any: boto3 makes its classes at run time
        self._was_reached = False
        self._tags_are_sums: bool | None = None  # nobody knows yet

    def __reduce__(self) -> tuple[type[Objects], tuple[Address, Patience]]:
        return Objects, (self.address, self._patience)

    def list(self, prefix: str, *, page_size: int = 1000) -> Iterator[Found]:
        """Everything whose key starts with `prefix`, page by page, in the order the service has."""
        go_on: dict[str, str] = {}
        while True:
            page = self._page(prefix, page_size, go_on)
            found = [_found(entry) for entry in page.get("Contents", ())]
            yield from found
            if not page.get("IsTruncated"):
                return
            before, go_on = go_on, _next_page(page, found)
            if go_on == before:
                raise Unreachable(
                    f"{self.address.complained(f'list {self.address}')}: it does not say where its list goes on"
                )

    def read(self, key: str) -> bytes:
        """The whole of an object; KeyError when there is none."""
        sums = set[str]()

        def attempt() -> bytes:
            answer = self._client().get_object(Bucket=self.address.bucket, Key=key)
            data = _body(answer)
            self._check(data, answer, sums)
            return data

        return self._ask(attempt, "read", key)

    def read_part(self, key: str, start: int, length: int, *, etag: str = "") -> Piece:
        """Some bytes of an object, fewer at its end; KeyError when there is none.

        Args:
            key: The object.
            start: Where to begin.
            length: How many bytes are wanted, at least 1.
            etag: The content must still be the one with this tag.
        """

        def attempt() -> Piece:
            from botocore.exceptions import ClientError

            same = {"IfMatch": etag} if etag else {}
            span = f"bytes={start}-{start + length - 1}"
            try:
                answer = self._client().get_object(Bucket=self.address.bucket, Key=key, Range=span, **same)
            except ClientError as error:
                if status_of(error) == 416:
                    return Piece(b"", start, etag)
                raise
            return self._piece(key, answer, start, length)

        return self._ask(attempt, "read", key)

    def size(self, key: str) -> int | None:
        """The size of an object, or nothing when there is none."""
        answer = self._head(key)
        return None if answer is None else int(answer["ContentLength"])

    def write(self, key: str, data: bytes) -> None:
        """Put an object in place as a whole; the service refuses it when it was damaged on its way."""
        checksum = hashlib.md5(data, usedforsecurity=False)
        tries = count()

        def attempt() -> None:
            if next(tries) and _tag(self._look(key) or {}) == checksum.hexdigest():
                return  # only the answer was lost
            written = self._client().put_object(
                Bucket=self.address.bucket,
                Key=key,
                Body=data,
                ContentMD5=base64.b64encode(checksum.digest()).decode(),
            )
            if _tag(written) != checksum.hexdigest():  # tags of encrypted objects are no checksums
                self._check_size(key, len(data))

        self._ask(attempt, "write", key)

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""
        self._ask(lambda: self._client().delete_object(Bucket=self.address.bucket, Key=key), "delete", key)

    def _page(self, prefix: str, size: int, go_on: dict[str, str]) -> Mapping[str, Any]:
        def attempt() -> Mapping[str, Any]:
            page: Mapping[str, Any] = self._client().list_objects_v2(
                Bucket=self.address.bucket, Prefix=prefix, MaxKeys=size, **go_on
            )
            return page

        return self._ask(attempt, "list", prefix)

    def _head(self, key: str) -> Mapping[str, Any] | None:
        return self._ask(lambda: self._look(key), "look for", key)

    def _look(self, key: str) -> Mapping[str, Any] | None:
        """What the service says about an object, asked once."""
        from botocore.exceptions import ClientError

        try:
            answer: Mapping[str, Any] = self._client().head_object(Bucket=self.address.bucket, Key=key)
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise
        return answer

    def _check(self, data: bytes, answer: Mapping[str, Any], sums: set[str]) -> None:
        """Compare what arrived with its tag, if tags are checksums; what comes alike twice in a row is right."""
        tag = _tag(answer)
        if self._tags_are_sums is False or not _is_md5(tag) or _is_encrypted(answer):
            return
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found == tag:
            self._tags_are_sums = True
        elif found in sums:
            self._tags_are_sums = self._tags_are_sums or False
        else:
            sums.clear()
            sums.add(found)
            raise Damaged(f"the checksum is {found} instead of {tag}")

    def _check_size(self, key: str, size: int) -> None:
        kept = self._look(key)
        if kept is None or int(kept["ContentLength"]) != size:
            raise Damaged("what was written is not there")

    def _piece(self, key: str, answer: Mapping[str, Any], start: int, length: int) -> Piece:
        data = _body(answer)
        total = str(answer.get("ContentRange", "")).rpartition("/")[2]
        if total.isdigit():
            return Piece(data, int(total), str(answer.get("ETag", "")))
        # Some services give the part and some the whole, and do not say which.
        size = int((self._look(key) or {"ContentLength": 0})["ContentLength"])
        part = data[start : start + length] if len(data) == size else data[:length]
        return Piece(part, size, str(answer.get("ETag", "")))

    def _ask(self, attempt: Callable[[], T], what: str, key: str) -> T:
        """Ask until there is an answer that will not change."""
        self._client()  # when boto3 itself is missing, its errors cannot be named either
        tries = Tries(self._patience, f"{what} {key}")
        while True:
            try:
                answer = attempt()
            except troubles() as error:
                if not self._goes_on(error, tries):
                    raise self._final(error, what, key, tries) from error
            else:
                self._was_reached = True
                return answer

    def _goes_on(self, error: Exception, tries: Tries) -> bool:
        """Wait for another try if that makes sense."""
        self._was_reached |= not never_arrived(error)
        deadline = self._patience.deadline if self._was_reached else self._patience.first_deadline
        return passes(error) and tries.again(deadline)

    def _final(self, error: Exception, what: str, key: str, tries: Tries) -> Exception:
        from botocore.exceptions import ClientError

        if isinstance(error, ClientError) and what == "read" and code_of(error) in {"NoSuchKey", "404", "NotFound"}:
            return KeyError(key)
        place = str(self.address) if what == "list" else self.address.named(key)
        complaint = self.address.complained(f"{what} {place}")
        return told(error, complaint, seconds=tries.seconds, tries=tries.number)

    def _client(self) -> Any:  # boto3 makes its classes at run time
        with self._lock:
            if os.getpid() not in self._clients:
                self._clients[os.getpid()] = connected(self.address, self._patience)
            return self._clients[os.getpid()]


def _body(answer: Mapping[str, Any]) -> bytes:
    stream = answer["Body"]
    try:
        return bytes(stream.read())
    finally:
        stream.close()  # the connection is free already, or something is wrong with it


def _next_page(page: Mapping[str, Any], found: Sequence[Found]) -> dict[str, str]:
    """What to ask for next; a service that gives no token goes on after the last key."""
    token = page.get("NextContinuationToken")
    return {"ContinuationToken": token} if token else {"StartAfter": found[-1].key if found else ""}


def _found(entry: Mapping[str, Any]) -> Found:
    return Found(entry["Key"], int(entry["Size"]), _tag(entry), str(entry.get("LastModified", "")))


def _tag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _is_md5(tag: str) -> bool:
    return len(tag) == 32 and all(letter in "0123456789abcdef" for letter in tag)


def _is_encrypted(answer: Mapping[str, Any]) -> bool:
    """With a key of the user's, so that its tag is no checksum of what we see."""
    return "SSECustomerAlgorithm" in answer or str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
