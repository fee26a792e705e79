"""What only buckets can do wrong: bad networks, wrong keys, services that say no."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from servers.faults import FAULTS, always, between, seeded
from servers.s3 import FAST, KEY, READER, SECRET, S3Server, shared

from simpletuner.errors import DataError
from simpletuner.storage.ranged import open_ranged
from simpletuner.storage.retries import Patience, Unreachable
from simpletuner.storage.s3 import S3Store
from simpletuner.storage.s3_client import Address
from simpletuner.storage.s3_objects import Objects

HASTY = Patience(deadline=0.5, first_deadline=0.5, connect=0.2, stall=0.2, first_wait=0.01, longest_wait=0.05)


@pytest.fixture
def server() -> S3Server:
    return shared()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials anywhere in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none either"))


def read_rest(objects: Objects, start: int, length: int) -> bytes:
    return objects.read_part("a.png", start, length).data


def some_files(count: int = 24) -> dict[str, bytes]:
    return {f"k/{number:03}": os.urandom(1000 + number * 997) for number in range(count)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_network_loses_nothing_and_writes_nothing_twice(server: S3Server, fault: str) -> None:
    files = some_files(24 if fault != "stall" else 8)
    patience = replace(FAST, stall=2 if fault == "stall" else 20)
    with between(server.endpoint, seeded(3, share=0.3, faults=(fault,))) as proxy:
        store = S3Store(server.address(server.new_bucket(), endpoint=proxy.endpoint), "cache", patience=patience)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(store.write, files, files.values()))
            read = dict(zip(files, threads.map(store.read, files), strict=True))
        assert [entry.key for entry in store.entries()] == sorted(files)
        assert read == files
        assert proxy.met[fault] > 0
        assert all(times == 1 for (method, _), times in proxy.done.items() if method == "PUT")


def test_a_list_over_many_pages_is_whole_in_spite_of_a_bad_network(server: S3Server) -> None:
    files = [f"p/{number:02}" for number in range(23)]
    bucket = server.new_bucket()
    objects = Objects(server.address(bucket), FAST)
    for key in files:
        objects.write(key, b"")
    with between(server.endpoint, seeded(1, share=1, faults=("slow down", "truncated", "reset"))) as proxy:
        objects = Objects(server.address(bucket, endpoint=proxy.endpoint), FAST)
        assert [found.key for found in objects.list("p/", page_size=5)] == files
        assert proxy.met.total() == 2 * 5


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("slow down", r"it answers SlowDown \(503\), in \d+ tries within \d+ s\. Try again later"),
        ("truncated", r"the connection is cut, in \d+ tries"),
        ("stall", r"it stopped answering, in \d+ tries"),
        ("reset", r"the connection is cut, in \d+ tries"),
        ("flipped", r"what arrives is damaged, in \d+ tries"),
    ],
)
def test_a_bucket_that_never_answers_well_is_given_up_in_time(server: S3Server, fault: str, words: str) -> None:
    bucket = server.new_bucket()
    S3Store(server.address(bucket), patience=FAST).write("a", b"content" * 100)
    with between(server.endpoint, always(fault, methods=("GET",))) as proxy:
        store = S3Store(server.address(bucket, endpoint=proxy.endpoint), patience=HASTY)
        started = time.monotonic()
        with pytest.raises(Unreachable, match=f"cannot read s3://{bucket}/a at {proxy.endpoint}: {words}"):
            store.read("a")
        assert time.monotonic() - started < Patience().first_deadline


def test_an_answer_that_is_lost_does_not_make_a_second_object(server: S3Server) -> None:
    with between(server.endpoint, always("lost answer", methods=("PUT",))) as proxy:
        store = S3Store(server.address(server.new_bucket(), endpoint=proxy.endpoint), patience=FAST)
        store.write("a", b"content")
        assert store.read("a") == b"content"
        assert proxy.met["lost answer"] == 1


REFUSALS: Mapping[str, tuple[Callable[[S3Server, str], Address], str]] = {
    "unknown key": (
        lambda server, bucket: server.address(bucket, key="nobody"),
        r"InvalidAccessKeyId \(403\)\. This access key is not known there: check aws_access_key_id",
    ),
    "wrong secret": (
        lambda server, bucket: server.address(bucket, secret="guessed"),
        r"SignatureDoesNotMatch \(403\)\. The secret is wrong: check aws_secret_access_key",
    ),
    "missing bucket": (
        lambda server, bucket: server.address("no-such-bucket"),
        r"NoSuchBucket \(404\)\. There is no bucket of this name: check aws_bucket_name",
    ),
    "nobody listens": (
        lambda server, bucket: server.address(bucket, endpoint="http://127.0.0.1:9"),
        r"there is no connection, in \d+ tries within \d s\. Check aws_endpoint_url",
    ),
    "no such host": (
        lambda server, bucket: server.address(bucket, endpoint="http://no-such-host.invalid"),
        r"there is no connection, in \d+ tries within \d s\. Check aws_endpoint_url",
    ),
    "not a name": (
        lambda server, bucket: server.address("s3://photos"),
        r"this is no name for a bucket\. Check aws_bucket_name",
    ),
    "not an address": (
        lambda server, bucket: server.address(bucket, endpoint="no address"),
        r"its address is not valid\. Check aws_endpoint_url",
    ),
    "no secure connection": (
        lambda server, bucket: server.address(bucket, endpoint=server.endpoint.replace("http:", "https:")),
        r"there is no secure connection.*\. Check aws_endpoint_url",
    ),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_a_bucket_that_cannot_be_used_is_told_in_the_users_words(server: S3Server, wrong: str) -> None:
    address, words = REFUSALS[wrong]
    store = S3Store(address(server, server.new_bucket()), patience=HASTY)
    for attempt in (lambda: list(store.entries()), lambda: store.read("a"), lambda: store.write("a", b"")):
        with pytest.raises(Unreachable, match=words) as caught:
            attempt()
        assert SECRET not in str(caught.value) and "guessed" not in str(caught.value)


def test_a_key_that_may_only_read_is_told_so_when_it_writes(server: S3Server) -> None:
    bucket = server.new_bucket()
    S3Store(server.address(bucket), patience=FAST).write("a", b"content")
    store = S3Store(server.address(bucket, key=READER[0], secret=READER[1]), patience=FAST)
    assert store.read("a") == b"content"
    with pytest.raises(DataError, match=r"cannot write .*/b at .*AccessDenied \(403\)\. Check that your access key"):
        store.write("b", b"")


@pytest.mark.usefixtures("nobody")
def test_keys_are_found_where_amazons_own_tools_find_them(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = server.new_bucket()
    with pytest.raises(Unreachable, match="there are no credentials for it. No credentials were found: give aws_acc"):
        S3Store(Address(bucket, server.endpoint), patience=FAST).write("a", b"")
    (tmp_path / "file").write_text(f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_PROFILE", "play")
    with pytest.raises(Unreachable, match="your AWS profile cannot be used. Check AWS_PROFILE"):
        S3Store(Address(bucket, server.endpoint), patience=FAST).write("a", b"")
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "file"))
    S3Store(Address(bucket, server.endpoint), patience=FAST).write("a", b"content")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    assert S3Store(Address(bucket), patience=FAST).read("a") == b"content"


def test_only_the_head_of_a_picture_travels(server: S3Server) -> None:
    buffer = BytesIO()
    Image.effect_noise((1200, 900), 90).save(buffer, "PNG")
    bucket = server.new_bucket()
    Objects(server.address(bucket), FAST).write("a.png", buffer.getvalue())
    with between(server.endpoint, lambda request: None) as proxy:
        objects = Objects(server.address(bucket, endpoint=proxy.endpoint), FAST)
        head = objects.read_part("a.png", 0, 32768)
        with (
            open_ranged(
                lambda start, length: objects.read_part("a.png", start, length).data, head.data, head.size
            ) as f,
            Image.open(f) as image,
        ):
            assert image.size == (1200, 900)
        assert head.size == len(buffer.getvalue()) > 10 * proxy.bytes_sent


def test_parts_end_where_the_object_ends(server: S3Server) -> None:
    objects = Objects(server.address(server.new_bucket()), FAST)
    objects.write("a", b"0123456789")
    objects.write("empty", b"")
    assert objects.read_part("a", 3, 4)[:2] == (b"3456", 10)
    assert objects.read_part("a", 8, 100)[:2] == (b"89", 10)
    assert objects.read_part("a", 10, 5).data == b""
    assert objects.read_part("empty", 0, 5)[:2] == (b"", 0)
    with pytest.raises(KeyError):
        objects.read_part("missing", 0, 5)


def test_a_service_that_says_less_than_it_should_is_understood(server: S3Server) -> None:
    bucket, files = server.new_bucket(), [f"p/{number}" for number in range(9)]
    with between(server.endpoint, always("bare")) as proxy:
        objects = Objects(server.address(bucket, endpoint=proxy.endpoint), FAST)
        for key in files:
            objects.write(key, b"0123456789")
        assert [found.key for found in objects.list("p/", page_size=4)] == files
        assert objects.read_part("p/0", 3, 4)[:2] == (b"3456", 10)
        assert objects.read_part("p/0", 0, 100)[:2] == (b"0123456789", 10)
        assert objects.read_part("p/0", 8, 100)[:2] == (b"89", 10)


def test_parts_of_two_contents_are_never_mixed(server: S3Server) -> None:
    objects = Objects(server.address(server.new_bucket()), FAST)
    objects.write("a", b"old content")
    etag = objects.read_part("a", 0, 3).etag
    objects.write("a", b"new content")
    with pytest.raises(DataError, match=r"PreconditionFailed \(412\)\. It was replaced while it was read: start again"):
        objects.read_part("a", 3, 8, etag=etag)


def test_buckets_of_one_name_at_two_services_are_two_places() -> None:
    names = [S3Store(Address("b", endpoint), "x/y/").name for endpoint in (None, "https://one.org", "https://two.org")]
    assert names == ["s3://b/x/y", "s3://b/x/y at https://one.org", "s3://b/x/y at https://two.org"]
    assert S3Store(Address("b"), "/x//y").name == names[0]
    assert S3Store(Address("b", "https://user:password@one.org:9000")).name == "s3://b/ at https://one.org:9000"


def test_a_store_works_in_other_processes(server: S3Server) -> None:
    store = S3Store(server.address(server.new_bucket()), "p", patience=FAST)
    store.write("a", b"content")
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(2) as processes:
            assert processes.map(store.read, ["a"] * 4) == [b"content"] * 4
    assert store.read("a") == b"content"
    assert pickle.loads(pickle.dumps(store)).name == store.name


def test_secrets_are_not_in_what_stands_for_a_store(server: S3Server) -> None:
    store = S3Store(server.address("bucket"), "p")
    shown = " ".join([repr(store), str(store), store.name, repr(store.address), str(store.address), repr(vars(store))])
    assert KEY not in shown and SECRET not in shown


def test_without_boto3_the_remedy_is_named() -> None:
    program = (
        "import sys; sys.modules['boto3'] = sys.modules['boto3.session'] = None\n"
        "from simpletuner.storage.s3 import S3Store; from simpletuner.storage.s3_client import Address\n"
        "S3Store(Address('photos')).read('a')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "DataError: bucket 'photos' needs boto3. Install it: pip install 'simpletuner[s3]'" in done.stderr


def test_nothing_is_imported_before_a_bucket_is_asked() -> None:
    program = (
        "import sys; from simpletuner.storage.s3 import S3Store; from simpletuner.storage.s3_client import Address\n"
        "S3Store(Address('photos'))\n"
        "print([name for name in ('boto3', 'botocore', 'torch', 'urllib3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
