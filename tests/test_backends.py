"""A run over images in every place at once: it trains, it resumes exactly, and the place does not matter."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import house
import places
import pytest
from places import Entry, Picture
from safetensors.torch import load_file
from servers import web
from servers.s3 import FAST, S3Server, shared
from torch import equal

from simpletuner.progress import DatasetReady, Recorded, StageStarted, StepDone
from simpletuner.results import Outcome
from simpletuner.storage.s3_objects import Objects

COUNT = 4
OPTIONS = {"gradient_accumulation_steps": 2, "checkpoint_step_interval": 3, "max_train_steps": 6}


@dataclass(frozen=True)
class World:
    """Data sets in every place, with caches in a bucket and in memory."""

    data: list[Entry]
    copies: list[Entry]
    """The same images and captions under the same names, in folders on this machine."""
    server: S3Server
    web: web.Web
    bucket: str
    ids: tuple[str, ...] = field(default=("folder", "bucket", "web", "rows", "shards", "table"))

    def keys(self, prefix: str) -> list[str]:
        """What is in the bucket below a folder."""
        return [found.key for found in Objects(self.server.address(self.bucket), FAST).list(prefix)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, server = tmp_path_factory.mktemp("world"), shared()
    bucket = server.new_bucket()
    drawn = {id: places.pictures(folder / "drawn" / id, COUNT, seed=seed) for seed, id in enumerate(World.ids)}
    with web.running() as site:
        data = [
            places.local(folder, "folder", drawn["folder"]) | {"text_embeds": "forgetful"},
            places.aws(server, bucket, "bucket", drawn["bucket"], cache_dir_vae="cache/latents"),
            places.csv(folder, site, "web", drawn["web"]),
            places.huggingface(folder, "rows", drawn["rows"]),
            places.webshart(folder, "shards", drawn["shards"]),
            places.table(folder, "table", drawn["table"]),
        ]
        texts = {"dataset_type": "text_embeds", "type": "aws", "default": True, "aws_data_prefix": "cache/texts"}
        caches = [
            {"id": "texts", **texts, **server.entry(bucket)},
            {"id": "forgetful", "dataset_type": "text_embeds", "type": "memory"},
        ]
        copies = [places.local(folder / "copies", id, _renamed(id, files)) for id, files in drawn.items()]
        yield World([*data, *caches], copies, server, site, bucket)


def _renamed(id: str, files: dict[str, Picture]) -> dict[str, Picture]:
    """The names that the source gives to its images."""
    names = {"rows": [f"{number}.jpg" for number in range(COUNT)], "shards": [f"part/{name}" for name in files]}
    return dict(zip(names.get(id, files), files.values(), strict=True))


def steps(recorded: Recorded) -> list[tuple[int, float, float]]:
    return [(event.step, event.loss, event.gradient_norm) for event in recorded.events if isinstance(event, StepDone)]


def assert_same(first: Outcome, second: Outcome) -> None:
    expected, found = load_file(first.adapter), load_file(second.adapter)
    assert expected.keys() == found.keys() and all(equal(expected[name], found[name]) for name in expected)


def encoded(recorded: Recorded) -> set[str]:
    stages = [event.stage for event in recorded.events if isinstance(event, StageStarted)]
    return {"text embeddings", "image latents"} & set(stages)


def test_images_in_every_place_are_trained_on_together_and_a_stopped_run_goes_on_exactly(
    tmp_path: Path, world: World, model: Path
) -> None:
    path = house.write_run(tmp_path / "run", world.data, **OPTIONS)
    unbroken, heard = house.run(path, model)
    ready = {event.id: event.images for event in heard.events if isinstance(event, DatasetReady)}
    assert ready == dict.fromkeys(world.ids, COUNT)
    assert len(world.keys("cache/latents/")) == COUNT and len(world.keys("cache/texts/")) > COUNT
    kept = tmp_path / "kept.safetensors"
    shutil.copy(unbroken.adapter, kept)
    shutil.rmtree(unbroken.folder / "checkpoint-6")
    asked = world.web.asked.total()
    resumed, after = house.run(path, model)
    assert steps(after) == steps(heard)[3:]
    assert resumed.adapter.read_bytes() == kept.read_bytes()
    assert world.web.asked.total() == asked == COUNT
    assert encoded(after) == {"text embeddings"}  # those that are kept in memory only


def test_the_same_images_and_captions_make_the_same_adapter_wherever_they_are(
    tmp_path: Path, world: World, model: Path
) -> None:
    spread, first = house.run(house.write_run(tmp_path / "spread", world.data, **OPTIONS), model)
    together, second = house.run(house.write_run(tmp_path / "together", world.copies, **OPTIONS), model)
    assert steps(first) == steps(second)
    assert_same(spread, together)


def test_what_is_kept_in_a_bucket_is_there_for_the_next_machine(tmp_path: Path, world: World, model: Path) -> None:
    data = [one for one in world.data if one["id"] in {"bucket", "texts"}]
    house.run(house.write_run(tmp_path / "one", data, max_train_steps=1), model)
    before = world.keys("")
    _, heard = house.run(house.write_run(tmp_path / "other", data, max_train_steps=1), model)
    assert encoded(heard) == set()
    assert world.keys("") == before
