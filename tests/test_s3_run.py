"""Whole runs over a bucket: through a bad network nothing is lost, and secrets are nowhere in what a run leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import house
import places
import pyarrow.parquet as pq
import pytest
from places import Entry
from servers import hub, web
from servers.faults import FAULTS, Plan, Request, between, seeded
from servers.hub import TOKEN
from servers.s3 import FAST, KEY, SECRET, S3Server, shared

from simpletuner.cli.main import main
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.storage.s3_objects import Objects
from simpletuner.training.runtime import Runtime

PASSWORD, SIGNATURE, OTHER_TOKEN = "url-password-of-nobody", "url-signature-of-nobody", "hf_token_of_the_shards"
SECRETS = (KEY, SECRET, TOKEN, OTHER_TOKEN, PASSWORD, SIGNATURE, "guessed-secret")


@pytest.fixture
def server() -> S3Server:
    return shared()


def filled(server: S3Server, folder: Path, count: int) -> tuple[str, Entry]:
    """A bucket with pictures, and the entry of a data set that keeps its latents there too."""
    bucket = server.new_bucket()
    drawn = places.pictures(folder, count, seed=1)
    return bucket, places.aws(server, bucket, "photos of mine", drawn, cache_dir_vae="cache/latents")


def texts(server: S3Server, bucket: str) -> Entry:
    place = server.entry(bucket, aws_data_prefix="cache/texts")
    return {"id": "texts", "dataset_type": "text_embeds", "type": "aws", "default": True, **place}


def through(endpoint: str, data: list[Entry]) -> list[Entry]:
    """The same data sets by another way."""
    return [{**one, "aws_endpoint_url": endpoint} if "aws_endpoint_url" in one else one for one in data]


def build(path: Path, model: Path) -> Recorded:
    """Fill every cache, as `simpletuner cache build` does."""
    heard = Recorded()
    prepare(house.resolved(path, model), Runtime.start("no", 7), heard).close()
    return heard


def kept(server: S3Server, bucket: str) -> dict[str, bytes]:
    """Every cache entry in a bucket."""
    objects = Objects(server.address(bucket), FAST)
    return {found.key: objects.read(found.key) for found in objects.list("cache/")}


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def process(folder: Path, model: Path, *words: str, **environment: str) -> Said:
    """The real command line in a process of its own."""
    line = [sys.executable, "-m", "simpletuner", *words, "--config", str(folder / "config.json")]
    known = {**os.environ, "MODEL": str(model), **environment}
    done = subprocess.run(line, env=known, capture_output=True, text=True, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


Command = Callable[..., Said]


@pytest.fixture
def command(model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The same in this process, which is loaded already."""

    def call(folder: Path, *words: str) -> Said:
        monkeypatch.setenv("MODEL", str(model))
        monkeypatch.setattr(sys, "argv", ["simpletuner", *words, "--config", str(folder / "config.json")])
        with pytest.raises(SystemExit) as ended:
            main()
        return Said(int(ended.value.code or 0), *capfd.readouterr())

    return call


SHARP = tuple(fault for fault in FAULTS if fault != "stall")


def one_stall(request: Request) -> str | None:
    """A third of the images stop in the middle when they are read to be encoded, all at the same time."""
    is_image = request.method == "GET" and request.path.endswith(("0.png", "1.png", "2.png"))
    return "stall" if is_image and request.before == 1 else None


FORMS: Mapping[str, tuple[Plan, int]] = {
    "everything that is over at once": (seeded(5, share=0.4, faults=SHARP), 12),
    "stalls": (one_stall, 8),
}


@pytest.mark.parametrize(
    "form",
    [
        "everything that is over at once",
        pytest.param(
            "stalls",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(bool(os.environ.get("CI")), reason="the network stands still for 30 s"),
            ],
        ),
    ],
)
def test_through_a_bad_network_the_caches_become_what_they_become_without(
    tmp_path: Path, server: S3Server, model: Path, form: str
) -> None:
    plan, count = FORMS[form]
    found: list[dict[str, bytes]] = []
    for number, faults in enumerate((plan, lambda request: None)):
        bucket, photos = filled(server, tmp_path / "drawn", count)
        with between(server.endpoint, faults) as proxy:
            data = through(proxy.endpoint, [photos, texts(server, bucket)])
            heard = build(house.write_run(tmp_path / str(number), data), model)
            assert not any("left out" in text for text in heard.texts())
            written = {path: times for (method, path), times in proxy.done.items() if method == "PUT"}
            assert set(written.values()) == {1}
            assert (proxy.met.total() > 0) == (number == 0)
        found.append(kept(server, bucket))
        assert len(written) == len(found[-1])
        assert sum(key.startswith("cache/latents/") for key in found[-1]) == count
    assert found[0] == found[1]


def test_what_a_bad_network_has_left_is_whole_to_the_last_bit(
    tmp_path: Path, server: S3Server, command: Command
) -> None:
    bucket, photos = filled(server, tmp_path / "drawn", 6)
    with between(server.endpoint, seeded(8, share=0.3, faults=SHARP)) as proxy:
        data = through(proxy.endpoint, [photos, texts(server, bucket)])
        house.write_run(tmp_path, data)
        built = command(tmp_path, "cache", "build")
        assert built.code == 0, built.err
        before = kept(server, bucket)
        verified = command(tmp_path, "cache", "verify")
        assert proxy.met.total() > 0
    assert (verified.code, verified.out.splitlines()[-1]) == (0, "Every entry is whole.")
    assert kept(server, bucket) == before
    assert_no_secret(built.out, built.err, verified.out, verified.err)


def assert_no_secret(*texts: str | bytes) -> None:
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        assert [secret for secret in SECRETS if secret.encode() in data] == []


@dataclass(frozen=True)
class Finished:
    """A run over a bucket, the web and shards, with secrets in every place where a secret can be."""

    folder: Path
    said: str
    uploaded: bytes
    bucket: bytes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Finished]:
    folder, server = tmp_path_factory.mktemp("secret"), shared()
    bucket, photos = filled(server, folder / "drawn", 4)
    Objects(server.address(bucket), FAST).write("photos/broken.png", b"no picture")
    drawn = places.pictures(folder / "drawn", 4, seed=2)
    with web.running() as site, hub.running() as place:
        data = [
            photos | {"aws_secret_access_key": "{env:S3_SECRET}"},
            places.csv(folder, site, "web", drawn),
            places.webshart(folder, "shards", drawn) | {"hf_token": OTHER_TOKEN},
            texts(server, bucket),
        ]
        table = (folder / "web.csv").read_text().replace("http://", f"http://me:{PASSWORD}@")
        table = table.replace(".png,", f".png?sig={SIGNATURE},")
        host = site.address("").removeprefix("http://")
        gone = f"http://me:{PASSWORD}@{host}/gone.png?sig={SIGNATURE},gone\n"
        (folder / "web.csv").write_text(table + gone)
        house.write_run(folder, data, push_to_hub=True, hub_model_id="shapes", **DRAW)
        done = process(folder, model, "train", S3_SECRET=SECRET, **place.environment())
        assert done.code == 0, done.err
        uploaded = b"".join(data for files in place.files.values() for data in files.values())
    yield Finished(folder, done.out + done.err, uploaded, b"".join(kept(server, bucket).values()))


DRAW = {
    "validation_disable": False,
    "validation_prompt": "a red circle",
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 1,
    "max_train_steps": 2,
    "checkpoint_step_interval": 1,
}


def test_a_run_says_no_secret(finished: Finished) -> None:
    assert "photos of mine" in finished.said and "404" in finished.said
    assert_no_secret(finished.said)


def test_no_file_that_a_run_leaves_holds_a_secret(finished: Finished) -> None:
    files = [*(finished.folder / "output").rglob("*"), *(finished.folder / "cache").rglob("*")]
    files += [*(finished.folder / "downloads").rglob("*")]
    contents = {path.relative_to(finished.folder).as_posix(): path.read_bytes() for path in files if path.is_file()}
    for name in ("output/progress.jsonl", "output/simpletuner_config.json", "output/README.md"):
        assert len(contents[name]) > 100
    assert any("skipped" in name for name in contents) and any("checkpoint-1/" in name for name in contents)
    tables = [str(pq.read_table(path).to_pylist()) for path in files if path.suffix == ".parquet"]
    assert len(tables) == 3
    assert_no_secret(*contents.values(), *contents, *tables)


def test_nothing_that_goes_elsewhere_holds_a_secret(finished: Finished) -> None:
    assert len(finished.uploaded) > 1000 and len(finished.bucket) > 1000
    assert_no_secret(finished.uploaded, finished.bucket)


def test_a_config_that_is_printed_shows_no_secret(tmp_path: Path, server: S3Server, model: Path) -> None:
    bucket, photos = filled(server, tmp_path / "drawn", 1)
    config = house.resolved(house.write_run(tmp_path, [photos, texts(server, bucket)]), model)
    assert bucket in repr(config)
    assert_no_secret(repr(config), str(config), config.dump(), json.dumps(config.flat(), default=str))


WRONG: Mapping[str, tuple[Callable[[S3Server], dict[str, str]], str]] = {
    "a secret": (lambda server: {"aws_secret_access_key": "guessed-secret"}, "The secret is wrong"),
    "a key": (lambda server: {"aws_access_key_id": "guessed-secret"}, "This access key is not known there"),
    "a bucket": (lambda server: {"aws_bucket_name": "no-such-bucket"}, "There is no bucket of this name"),
    "an address": (lambda server: {"aws_endpoint_url": "http://127.0.0.1:9"}, "there is no connection, in"),
}


def wrong_run(folder: Path, server: S3Server, wrong: str, place: str) -> None:
    """A run with a mistake in the entry of the images, or in that of a cache."""
    bucket, photos = filled(server, folder / "drawn", 2)
    change, _ = WRONG[wrong]
    small = places.local(folder, "at home", places.pictures(folder / "drawn", 2, seed=1))
    data = {
        "images": [photos | change(server)],
        "texts": [small, texts(server, bucket) | change(server)],
        "latents": [small, texts(server, bucket) | {"id": "kept", "dataset_type": "image_embeds"} | change(server)],
    }
    house.write_run(folder, data[place])


def assert_told(done: Said, wrong: str, owner: str) -> None:
    assert done.code == 1
    assert "Traceback" not in done.err and done.err.count("error: ") == 1
    assert f"error: {owner}: cannot list bucket" in done.err and WRONG[wrong][1] in done.err
    assert_no_secret(done.out, done.err)


OWNERS = {"images": "data set 'photos of mine'", "texts": "cache 'texts'", "latents": "cache 'kept'"}


@pytest.mark.parametrize("place", OWNERS)
@pytest.mark.parametrize("wrong", [wrong for wrong in WRONG if wrong != "an address"])
def test_a_bucket_that_cannot_be_used_ends_the_run_with_one_message(
    tmp_path: Path, server: S3Server, command: Command, wrong: str, place: str
) -> None:
    wrong_run(tmp_path, server, wrong, place)
    assert_told(command(tmp_path, "train"), wrong, OWNERS[place])


def test_a_bucket_that_is_nowhere_ends_the_run_after_some_seconds(
    tmp_path: Path, server: S3Server, model: Path
) -> None:
    wrong_run(tmp_path, server, "an address", "images")
    assert_told(process(tmp_path, model, "train"), "an address", OWNERS["images"])
