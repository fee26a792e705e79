"""Odd and hostile images in every place: each one is used or left out with a reason, and none ends a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from contracts.openers import OPENERS, Opener
from data import odd, test_corpus
from encoders import Averages
from pydantic import PrivateAttr

from simpletuner.caching.latents import LatentCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.data.dataset import Dataset
from simpletuner.data.opening import open_all
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources.base import DataBackend, Source
from simpletuner.errors import DataError
from simpletuner.progress import Recorded
from simpletuner.storage.memory import MemoryStore


class Given(DataBackend):
    """A data set with a source that is open already."""

    own_strategy: ClassVar[str] = "instanceprompt"
    _source: Source = PrivateAttr()

    def open(self) -> Source:
        """The source itself."""
        return self._source


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest) -> Opener:
    return OPENERS[request.param]


def opened(opener: Opener, folder: Path, files: Mapping[str, bytes]) -> tuple[Dataset, dict[str, torch.Tensor]]:
    """A data set of these files after everything that comes before training, and its latents."""
    folder.mkdir(parents=True)
    entry = Given(id="odd", resolution=64, resolution_type="pixel", minimum_image_size=16, instance_prompt="a thing")
    entry._source = opener(folder, files).source
    cache, heard = folder.with_name("run"), Recorded()
    (dataset,) = open_all([entry], DataDefaults(), train_batch_size=2, cache=cache, seed=0, reporter=heard).training
    latents = LatentCache({"odd": TensorCache(MemoryStore(), "averages")})
    broken = latents.fill([dataset], Averages(), 4, heard)
    dataset = dataset.without(broken.get("odd", {}), heard)
    return dataset, {record.key: latents.get("odd", record)[0] for record in dataset.records}


def assert_all_accounted_for(dataset: Dataset, latents: Mapping[str, torch.Tensor]) -> None:
    left_out = {skipped.key: skipped.reason for skipped in dataset.skipped}
    listed = {item.key for item in dataset.source.items() if not item.key.endswith(".txt")}
    assert set(latents).isdisjoint(left_out) and set(latents) | set(left_out) == listed
    assert all(left_out.values())
    assert all(torch.isfinite(one).all() for one in latents.values())
    lines = dataset.manifest.path.with_suffix(".skipped.tsv").read_text().splitlines()
    assert len(lines) == len(left_out)
    assert all(len(line.split("\t")) == 3 and line.split("\t")[1] for line in lines)


def test_odd_images_are_used_and_useless_ones_left_out_wherever_they_are(tmp_path: Path, opener: Opener) -> None:
    good, bad = odd.usable(), odd.useless()
    dataset, latents = opened(opener, tmp_path / "place", {**good, **bad})
    assert_all_accounted_for(dataset, latents)
    assert (len(latents), len(dataset.skipped)) == (len(good), len(bad))


def test_an_odd_image_becomes_the_same_pixels_wherever_it_is(tmp_path: Path) -> None:
    files = dict(odd.usable())
    plain, *others = (
        [latents[record.key] for record in dataset.records]
        for dataset, latents in (opened(OPENERS[name], tmp_path / name / "place", files) for name in ("local", "aws"))
    )
    assert all(torch.equal(one, other) for found in others for one, other in zip(plain, found, strict=True))


def test_a_place_with_nothing_usable_is_refused_with_its_reasons(tmp_path: Path, opener: Opener) -> None:
    files = {"a.png": b"", **odd.useless()}
    with pytest.raises(DataError, match="data set '(odd|web)'.*") as error:
        opened(opener, tmp_path / "place", files)
    assert "no images" in str(error.value) or "cannot be downloaded" in str(error.value)


@pytest.mark.slow
def test_the_odd_images_of_others_are_used_or_left_out_wherever_they_are(tmp_path: Path, opener: Opener) -> None:
    paths = test_corpus.sample(test_corpus.fetched(may_download=False))
    paths = paths[::4] if os.environ.get("CI") else paths
    files = {f"{number:03} {path.stem}.{_ENDINGS[number % 3]}": path.read_bytes() for number, path in enumerate(paths)}
    dataset, latents = opened(opener, tmp_path / "place", {"a.png": odd.usable()["a.png"], **files})
    assert_all_accounted_for(dataset, latents)
    assert len(latents) > len(files) / 2


_ENDINGS = ("png", "jpg", "webp")
