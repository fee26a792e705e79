"""Images in a bucket: what the data file may say, and that secrets stay secret all the way."""

import logging
import pickle
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from servers.faults import always, between, seeded
from servers.s3 import FAST, KEY, SECRET, S3Server, shared

from data.sources.drawn import picture
from simpletuner.complaints import problems
from simpletuner.data.manifest import Manifest
from simpletuner.data.scan import scan
from simpletuner.data.sources.aws import Aws, BucketFolder
from simpletuner.data.sources.base import wanted
from simpletuner.errors import DataError
from simpletuner.storage.retries import Patience, Unreachable
from simpletuner.storage.s3 import S3Store
from simpletuner.storage.s3_objects import Objects


@pytest.fixture
def server() -> S3Server:
    return shared()


def filled(server: S3Server, files: Mapping[str, bytes]) -> str:
    """A new bucket with these files."""
    bucket = server.new_bucket()
    objects = Objects(server.address(bucket), FAST)
    for name, data in files.items():
        objects.write(name, data)
    return bucket


def folder(server: S3Server, bucket: str, prefix: str = "", **address: str) -> BucketFolder:
    return BucketFolder(Objects(server.address(bucket, **address), FAST), prefix, wanted())


def entry(**options: Any) -> Aws:
    return Aws.model_validate({"id": "a", "type": "aws", "aws_bucket_name": "photos", **options})


def complaints(**options: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        entry(**options)
    return [str(one) for one in problems(caught.value, [], lambda path: " > ".join(map(str, path)), page="D.md")]


def test_keys_may_be_left_to_the_environment_but_not_one_of_them() -> None:
    assert entry().aws_access_key_id is None
    assert complaints(aws_access_key_id="k") == ["aws_secret_access_key: is required together with aws_access_key_id"]
    assert complaints(aws_secret_access_key="s") == [
        "aws_access_key_id: is required together with aws_secret_access_key"
    ]


def test_wrong_places_are_told_before_anything_is_asked() -> None:
    assert complaints(aws_bucket_name="s3://photos/cats") == [
        "aws_bucket_name: 's3://photos/cats' is no name for a bucket; give the name alone, "
        "and put folders into aws_data_prefix"
    ]
    assert complaints(aws_endpoint_url="s3.example.org") == [
        "aws_endpoint_url: must begin with https:// or http:// and name the service, got 's3.example.org'"
    ]
    (problem,) = complaints(aws_endpoint_url="https://me:hunter2@s3.example.org")
    assert "must not hold a user or a password" in problem and "hunter2" not in problem


def test_a_secret_of_a_wrong_kind_is_not_quoted() -> None:
    (problem,) = complaints(aws_access_key_id="k", aws_secret_access_key=["hunter2"])
    assert problem == "aws_secret_access_key: must be text"
    numbers = entry(aws_access_key_id=12, aws_secret_access_key=34)
    assert numbers.aws_secret_access_key is not None
    assert numbers.aws_secret_access_key.get_secret_value() == "34"


def test_only_what_is_in_the_folder_and_wanted_is_listed(server: S3Server) -> None:
    names = ["photos/a.jpg", "photos/a.caption", "photos/deep/B.PNG", "photos/c.heic"]
    others = ["photos/readme.md", "photos/a.txt", "photos/.hidden/a.jpg", "photos/deep/._B.PNG", "photos2/a.jpg"]
    bucket = filled(server, dict.fromkeys([*names, *others], b"x"))
    server.client.put_object(Bucket=bucket, Key="photos/empty folder/")
    source = entry(**server.entry(bucket, aws_data_prefix="/photos"), caption_extension=".caption").open()
    assert sorted(item.key for item in source.items()) == ["a.caption", "a.jpg", "c.heic", "deep/B.PNG"]


def test_a_prefix_is_a_folder_whatever_slashes_it_is_written_with(server: S3Server) -> None:
    bucket = filled(server, {"photos/a.jpg": b"x"})
    for prefix in ("photos", "photos/", "/photos/", "./photos//", "photos/."):
        assert [item.key for item in folder(server, bucket, prefix).items()] == ["a.jpg"]
    assert folder(server, bucket, "photos").name("a.jpg") == f"s3://{bucket}/photos/a.jpg at {server.endpoint}"


def test_the_version_and_the_digest_change_with_the_content_alone(server: S3Server) -> None:
    bucket = filled(server, {"a.jpg": b"one", "b.jpg": b"one", "c.jpg": b"two"})
    a, b, c = sorted(folder(server, bucket).items())
    assert a.digest == b.digest != c.digest and a.version == b.version != c.version
    Objects(server.address(bucket), FAST).write("a.jpg", b"two")
    assert sorted(folder(server, bucket).items())[0].digest == c.digest


@pytest.mark.parametrize("tags", ["checksums", "one tag"])
def test_a_replaced_file_of_the_same_size_is_seen_and_nothing_is_asked_about_the_others(
    server: S3Server, tmp_path: Path, tags: str
) -> None:
    files = {f"{name}.bmp": picture(1, kind="BMP") for name in "abc"}
    bucket = filled(server, {**files, "a.txt": b"red", "b.txt": b"red"})
    with between(server.endpoint, always(tags)) as proxy:
        source = folder(server, bucket, endpoint=proxy.endpoint)

        def scanned() -> Manifest:
            found = scan(source, tmp_path / "m.parquet", caption_extension=".txt", with_captions=True, advance=_nothing)
            return found.with_digests(source, np.flatnonzero(found.is_empty("digest")), _nothing)

        before = scanned()
        time.sleep(1.1 if tags == "one tag" else 0)  # what a service says about times are whole seconds
        Objects(server.address(bucket), FAST).write("b.bmp", picture(2, kind="BMP"))
        Objects(server.address(bucket), FAST).write("b.txt", b"tan")
        asked = proxy.done.copy()
        after = scanned()
        again = {path.partition("?")[0].rpartition("/")[2] for _, path in proxy.done - asked}
    old, new = (made.table.column("digest").to_pylist() for made in (before, after))
    assert new[0] == new[2] == old[0] == old[1] == old[2] != new[1]
    assert after.table.column("captions").to_pylist() == [["red"], ["tan"], None]
    assert again - {bucket, ""} == {"b.bmp", "b.txt"}


def test_files_uploaded_in_parts_can_be_read_and_told_from_others(server: S3Server, tmp_path: Path) -> None:
    bucket, data = server.new_bucket(), secrets.token_bytes(9 * 2**20)
    (tmp_path / "large").write_bytes(data)
    server.client.upload_file(str(tmp_path / "large"), bucket, "large.png")
    source = folder(server, bucket)
    (item,) = source.items()
    assert item.digest
    assert source.read("large.png") == data


def test_a_file_that_has_gone_is_named(server: S3Server) -> None:
    bucket = filled(server, {"a.jpg": b"x"})
    source = folder(server, bucket)
    with pytest.raises(DataError, match=f"cannot read s3://{bucket}/b.jpg at .*: it is not there any more"):
        source.read("b.jpg")
    with pytest.raises(DataError, match="it is not there any more"):
        source.open("b.jpg")


def test_a_file_that_is_replaced_while_it_is_open_is_an_error_and_no_mixture(server: S3Server) -> None:
    bucket = filled(server, {"a.png": picture(1, (400, 400), "PNG")})
    with folder(server, bucket).open("a.png") as file:
        Objects(server.address(bucket), FAST).write("a.png", picture(2, (400, 400), "PNG"))
        with pytest.raises(DataError, match="It was replaced while it was read"):
            file.read()


def test_a_bucket_out_of_reach_is_never_taken_for_a_damaged_image(server: S3Server) -> None:
    bucket = filled(server, {"a.jpg": picture()})
    with between(server.endpoint, always("slow down")) as proxy:
        hasty = Patience(deadline=0.2, first_wait=0.01)
        source = BucketFolder(Objects(server.address(bucket, endpoint=proxy.endpoint), hasty), "", wanted())
        for attempt in (source.read, source.open):
            with pytest.raises(Unreachable):
                attempt("a.jpg")
        with pytest.raises(Unreachable):
            list(source.items())


def test_through_a_bad_network_a_run_reads_and_caches_what_it_would_without(server: S3Server) -> None:
    files = {f"photos/{number:02}.jpg": picture(number, (90 + number, 60)) for number in range(16)}
    bucket = filled(server, {**files, **{name.replace(".jpg", ".txt"): name.encode() for name in files}})
    faults = ("slow down", "internal error", "truncated", "reset", "lost answer", "stall")
    patience = Patience(deadline=30, stall=0.7, first_wait=0.01, longest_wait=0.1)
    quiet = _run(BucketFolder(Objects(server.address(bucket), FAST), "photos", wanted()), _cache(server, bucket, "one"))
    with between(server.endpoint, seeded(7, share=0.2, faults=faults)) as proxy:
        address = server.address(bucket, endpoint=proxy.endpoint)
        source = BucketFolder(Objects(address, patience), "photos", wanted())
        assert _run(source, S3Store(address, "two", patience=patience)) == quiet
        assert proxy.met.total() > 5
        assert all(times == 1 for (method, _), times in proxy.done.items() if method == "PUT")
    one, two = (list(_cache(server, bucket, name).entries()) for name in ("one", "two"))
    assert one == two and len(one) == 16


def _cache(server: S3Server, bucket: str, prefix: str) -> S3Store:
    return S3Store(server.address(bucket), prefix, patience=FAST)


def _run(source: BucketFolder, cache: S3Store) -> dict[str, object]:
    """What a run does with a bucket: list it, look at heads, read pictures and captions, write caches."""
    items = {item.key: item for item in source.items()}

    def use(key: str) -> object:
        if key.endswith(".txt"):
            return source.read(key)
        with source.open(key) as file, Image.open(file) as image:
            size = image.size
        cache.write(f"{key[:2]}.safetensors", sha256(source.read(key)).digest() * 100)
        return size, cache.read(f"{key[:2]}.safetensors")

    with ThreadPoolExecutor(8) as threads:
        return {key: (items[key], used) for key, used in zip(items, threads.map(use, items), strict=True)}


def test_secrets_are_nowhere_in_what_a_run_says_or_writes(
    server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    bucket = filled(server, {"a.jpg": picture(), "b.jpg": b"no picture", "a.txt": b"a caption"})
    with between(server.endpoint, seeded(3, share=0.5)) as proxy:
        section = entry(**server.entry(bucket, aws_endpoint_url=proxy.endpoint))
        source = BucketFolder(Objects(section.address(bucket), FAST), "", wanted())
        manifest = scan(source, tmp_path / "m.parquet", caption_extension=".txt", with_captions=True, advance=_nothing)
        section.store("cache").write("x", source.read("a.jpg"))
    said = [repr(section), str(section), section.model_dump_json(), repr(section.model_dump()), repr(vars(section))]
    said += [
        repr(source),
        repr(vars(source)),
        repr(manifest),
        str(manifest.table.to_pylist()),
        *_errors(server, bucket),
    ]
    said += [caplog.text, *capfd.readouterr()]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) > 100 and "a caption" in str(said)
    for secret in (KEY, SECRET, "guessed-secret"):
        assert secret not in "\n".join(said)
        assert secret.encode() not in written


def _errors(server: S3Server, bucket: str) -> list[str]:
    """What is said when the credentials or the place are wrong, with everything that led to it."""
    wrong = [
        server.address(bucket, secret="guessed-secret"),
        server.address(bucket, key="guessed-secret"),
        server.address("no-such-bucket"),
        server.address(bucket, endpoint="http://127.0.0.1:9"),
        server.address("no/name"),
    ]
    said = []
    for address in wrong:
        with pytest.raises(DataError) as caught:
            list(BucketFolder(Objects(address, Patience(first_deadline=0.1)), "", wanted()).items())
        said.append(str(caught.getrepr(style="native")))
    return said


def _nothing(count: int) -> None:
    """Nobody listens."""


def test_a_source_can_be_sent_to_another_process(server: S3Server) -> None:
    bucket = filled(server, {"a.jpg": b"x"})
    assert pickle.loads(pickle.dumps(folder(server, bucket))).read("a.jpg") == b"x"
