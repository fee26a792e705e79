"""What is where in a shard: found once by reading the headers of the tar file, and kept as JSON.

The JSON is that of the webshart library, so that indexes which others have made are used as they are:
``{"files": {"a.jpg": {"offset": 512, "length": 900, "width": 640, "height": 480, "captions": "a cat"}}}``.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from simpletuner.data import images
from simpletuner.data.captions.spelling import decode_text
from simpletuner.data.items import Size
from simpletuner.data.lanes import together
from simpletuner.data.sources.base import CAPTION_SUFFIX, IMAGE_SUFFIXES, OTHER_PICTURES
from simpletuner.data.sources.shards.places import COMPRESSED, Place, Shard
from simpletuner.data.tables.said import first_said, size, texts
from simpletuner.errors import DataError
from simpletuner.storage.ranged import RangedFile


class Picture(NamedTuple):
    """One image file in a shard."""

    name: str
    offset: int
    length: int
    size: Size | None
    captions: tuple[str, ...]
    digest: str


class Index(NamedTuple):
    """All images of a shard."""

    pictures: Sequence[Picture]
    problem: str
    """What is wrong with the shard; the pictures are those in front of the damage."""
    is_ended: bool = True
    """Whether a mark says that the shard ends here; without one, it may have been cut off between two files."""


Files = dict[str, dict[str, Any]]
"""What is known of each file in a shard; Any because it is JSON."""


def make(place: Place, shard: Shard, *, ready: bytes | None, caption_keys: Sequence[str]) -> bytes:
    """The index of a shard: a ready one completed with captions, or one from the headers of its tar file.

    Args:
        place: Where the shard is.
        shard: What is looked through, if there is no ready index of it.
        ready: The index that somebody else made.
        caption_keys: Which keys of the .json files in the shard are captions; the usual ones unless given.
    """
    files, problem, is_ended = _checked(ready, shard), "", True
    if files is None:
        files, problem, is_ended = _walked(place, shard)
    _read_captions(files, place, shard)
    pictures = {name: _kept(entry, caption_keys) for name, entry in files.items() if _suffix(name) in _PICTURES}
    kept = {"filesize": shard.size, "problem": problem, "ended": is_ended, "files": pictures}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def read(data: bytes) -> Index:
    """The images that `make` listed."""
    whole = json.loads(data)
    pictures = [_picture(name, entry) for name, entry in whole["files"].items()]
    return Index(pictures, whole["problem"], whole.get("ended", True))


def _picture(name: str, entry: Mapping[str, Any]) -> Picture:
    found = size(entry.get("width"), entry.get("height"))
    captions = tuple(entry.get("captions", ()))
    return Picture(name, entry["offset"], entry["length"], found, captions, entry.get("sha256", ""))


def _kept(entry: Mapping[str, Any], caption_keys: Sequence[str]) -> dict[str, Any]:
    """What is worth keeping of an image."""
    kept = {key: entry[key] for key in ("offset", "length", "width", "height", "sha256") if key in entry}
    captions = _captions(entry, caption_keys)
    return {**kept, "captions": captions} if captions else kept


def _captions(entry: Mapping[str, Any], caption_keys: Sequence[str]) -> tuple[str, ...]:
    said = entry.get("json_metadata") or {}
    if caption_keys:
        return texts([said.get(key) for key in caption_keys])
    return texts(entry.get("captions")) or first_said(said.get(key) for key in _USUAL_CAPTIONS)


def _checked(ready: bytes | None, shard: Shard) -> Files | None:
    """The files of an index that somebody else made; nothing when it cannot be that of this shard."""
    try:
        whole = json.loads(ready or b"null")
    except ValueError:
        return None
    given = whole.get("files") if isinstance(whole, dict) else None
    if not isinstance(given, dict) or whole.get("filesize", shard.size) != shard.size:
        return None
    files = {_clean(name): _entry(entry) for name, entry in given.items()}
    fits = all(
        entry["offset"] >= 0 and 0 <= entry["length"] <= shard.size - entry["offset"] for entry in files.values()
    )
    return files if fits else None


def _entry(given: object) -> dict[str, Any]:
    entry = dict(given) if isinstance(given, Mapping) else {}
    place = {"offset": entry.get("offset"), "length": entry.get("length", entry.get("size"))}
    numbers = {key: value if isinstance(value, int) else -1 for key, value in place.items()}
    captions = {"captions": entry.get("captions") or entry.get("caption")}
    return {key: value for key, value in {**entry, **numbers, **captions}.items() if value not in (None, "")}


def _walked(place: Place, shard: Shard) -> tuple[Files, str, bool]:
    """The files that the headers of a tar file name, what is wrong with the tar file, and whether a mark ends it."""
    if shard.name.lower().endswith(COMPRESSED):
        return {}, "a compressed shard cannot be read by range; unpack it to a .tar file", True
    files: Files = {}
    raw = RangedFile(lambda start, length: place.fetch(shard, start, min(length, place.piece)), b"", shard.size)
    with _Careful(raw) as file:
        try:
            for name, entry in _members(file):
                if entry["offset"] + entry["length"] > shard.size:
                    return files, _damage(entry["offset"], files), True
                files[name] = entry
        # RecursionError: the library reads headers that are about headers by calling itself.
        except (tarfile.TarError, ValueError, OSError, RecursionError) as error:
            return files, f"{_damage(file.tell(), files)} ({error})", True
        return files, "", _has_end(file, shard)


def _members(file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each file in a tar file; TarError where its headers end before it does."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            if info.size < 0:
                raise tarfile.ReadError("a header tells of less than nothing")
            if info.isreg() and _suffix(info.name) in _WANTED:
                yield _clean(info.name), _member(tar, info)
        # The library takes a damaged header for the end; the true end is a block of zeros, or that of the file.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")


def _has_end(file: BinaryIO, shard: Shard) -> bool:
    """Whether the last block of a tar file is a mark of its end: a block of zeros."""
    file.seek(max(shard.size - shard.size % tarfile.BLOCKSIZE - tarfile.BLOCKSIZE, 0))
    return not file.read(tarfile.BLOCKSIZE).strip(b"\0")


class _Careful(io.BufferedReader):
    """A tar file of which the library cannot read all at once, whatever a header claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes; TarError when a header makes the library want too many."""
        if size is None or not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError(f"a header claims to be {size} bytes long")
        return super().read(size)


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> dict[str, Any]:
    entry: dict[str, Any] = {"offset": info.offset_data, "length": info.size}
    file = tar.extractfile(info)
    assert file is not None
    if _suffix(info.name) in _TEXTS:
        entry["text"] = file.read() if info.size <= _LONGEST_TEXT else b""
    elif _suffix(info.name) in IMAGE_SUFFIXES:
        found = _probed(file)
        entry |= {"width": found.width, "height": found.height} if found else {}
    return entry


def _probed(file: Any) -> Size | None:  # Any: IO[bytes] is what the library calls a BinaryIO
    try:
        return images.probe(file)
    except DataError:  # the scan looks at it again, and tells
        return None


def _read_captions(files: Files, place: Place, shard: Shard) -> None:
    """Give each image what the .txt and .json files of its name say."""
    by_stem = {suffix: _by_stem(files, suffix) for suffix in _TEXTS}
    pairs = [
        (entry, suffix, beside)
        for name, entry in files.items()
        if _suffix(name) in _PICTURES and not entry.get("captions") and "json_metadata" not in entry
        for suffix, known in by_stem.items()
        if (beside := known.get(_stem(name)) or known.get(_sample(name))) is not None
    ]

    def text_of(pair: tuple[dict[str, Any], str, dict[str, Any]]) -> bytes:
        beside = pair[2]
        if "text" in beside:
            return bytes(beside["text"])
        return place.fetch(shard, beside["offset"], min(beside["length"], _LONGEST_TEXT))

    for (entry, suffix, _), data in zip(pairs, together(place.lanes, text_of, pairs), strict=True):
        entry |= {"captions": decode_text(data)} if suffix == CAPTION_SUFFIX else {"json_metadata": _object(data)}


def _by_stem(files: Files, suffix: str) -> dict[str, dict[str, Any]]:
    return {_stem(name): entry for name, entry in files.items() if _suffix(name) == suffix}


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _damage(position: int, files: Files) -> str:
    count = sum(_suffix(name) in _PICTURES for name in files)
    return f"the shard is damaged or cut off after byte {position:,}; the {count} images before that are used"


def _clean(name: str) -> str:
    return name.removeprefix("./").lstrip("/")


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _stem(name: str) -> str:
    return name[: -len(PurePosixPath(name).suffix) or None]


def _sample(name: str) -> str:
    """What files of one sample have in common in WebDataset: the name up to its first dot."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


_PICTURES = IMAGE_SUFFIXES | OTHER_PICTURES
_TEXTS = (CAPTION_SUFFIX, ".json")
_WANTED = _PICTURES | set(_TEXTS)
_LONGEST_TEXT = 2**20
_LARGEST_READ = 2**26
_USUAL_CAPTIONS = ("captions", "caption", "text", "prompt", "description")
