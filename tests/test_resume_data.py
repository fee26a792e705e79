"""Interrupting a run changes nothing, whatever the data file asks for and whatever the caches still hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import house
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, equal

from simpletuner.progress import Evaluated, Recorded, StageStarted, StepDone

Entries = list[dict[str, Any]]


def drawn(folder: Path, id: str, count: int = 6, *, size: tuple[int, int] = (64, 64), **options: Any) -> dict[str, Any]:
    """A data set of its own."""
    return house.data_set(id, house.draw_pictures(folder / id, count, size=size, seed=len(id)), **options)


def windows(folder: Path) -> Entries:
    """Data sets that come and go by epochs and by steps."""
    return [
        drawn(folder, "always", 4),
        drawn(folder, "at first", 2, end_epoch=1),
        drawn(folder, "until a step", 2, end_step=4),
        drawn(folder, "from a step on", 2, start_step=3),
        drawn(folder, "from an epoch on", 2, start_epoch=2),
        drawn(folder, "early in each epoch", 4, disable_after_epoch_step=1),
    ]


def prior(folder: Path) -> Entries:
    """Regularisation data of both kinds, one of them as often as everything else."""
    own: dict[str, Any] = {"is_regularisation_data": True}
    matched = {**own, "regularisation_mode": "prior", "match_count": True, "prior_loss_weight": 0.7}
    return [
        drawn(folder, "subject", repeats=1),
        drawn(folder, "prior", 3, **matched),
        drawn(folder, "parent", 3, size=(128, 64), **own, probability=0.5),
    ]


def masks(folder: Path) -> Entries:
    """A mask and a segmentation for each image."""
    entries = []
    for id, kind in (("masked", "mask"), ("segmented", "segmentation")):
        images = drawn(folder, id)
        for path in sorted((folder / id).glob("*.png")):
            (folder / kind).mkdir(exist_ok=True)
            columns = np.linspace(0, int(path.stem) * 40, 64).astype(np.uint8)
            Image.fromarray(np.tile(columns, (64, 1))).save(folder / kind / path.name)
        entries += [
            images | {"conditioning_data": f"its {kind}"},
            house.data_set(f"its {kind}", folder / kind, conditioning_type=kind, caption_strategy="filename"),
        ]
    return entries


def captions(folder: Path) -> Entries:
    """Everything that sd-scripts does to captions, and shuffled captions."""
    pipeline = {
        "caption_prefix": "ohwx,",
        "shuffle_caption": True,
        "keep_tokens": 1,
        "enable_wildcard": True,
        "caption_tag_dropout_rate": 0.3,
        "caption_dropout_rate": 0.2,
        "caption_dropout_every_n_epochs": 2,
        "token_warmup_min": 1,
        "token_warmup_step": 0.8,
        "variants": 3,
    }
    tagged = drawn(folder, "tagged", caption_pipeline=pipeline)
    for path in sorted((folder / "tagged").glob("*.txt")):
        path.write_text("a {red|blue|green} shape, white background, flat, small\na shape, flat, round, {thin|thick}")
    return [tagged, drawn(folder, "shuffled", caption_shuffle={"enable": True, "count": 3, "split_on": "space"})]


def on_demand(folder: Path) -> Entries:
    """Nothing is encoded before it is needed."""
    texts = {"id": "texts", "dataset_type": "text_embeds", "default": True, "text_cache_ondemand": True}
    return [drawn(folder, "subject", repeats=1, vae_cache_ondemand=True), texts]


def without_caches(folder: Path) -> Entries:
    """Nothing is kept on the disk."""
    texts = {"id": "texts", "dataset_type": "text_embeds", "default": True, "text_cache_disable": True}
    return [drawn(folder, "subject", repeats=1, vae_cache_disable=True), texts]


def new_crops(folder: Path) -> Entries:
    """Random crops, which are drawn anew for each epoch."""
    crops = {"crop": True, "crop_style": "random", "crop_aspect": "random", "crop_aspect_buckets": [1.0, 2.0]}
    return [
        drawn(folder, "cropped", 4, size=(300, 180), vae_cache_clear_each_epoch=True, **crops),
        drawn(folder, "cropped once", 4, size=(300, 180), **crops),
    ]


def generated(folder: Path) -> Entries:
    """Masks that are made out of the images themselves."""
    return [drawn(folder, "holes", conditioning={"type": "random_masks", "conditioning_type": "mask"})]


def evaluated(folder: Path) -> Entries:
    """Images that the loss is measured on."""
    return [drawn(folder, "subject"), drawn(folder, "held out", 3, dataset_type="eval")]


CASES: Mapping[str, tuple[Callable[[Path], Entries], dict[str, Any]]] = {
    "windows": (windows, {}),
    "prior data": (prior, {}),
    "masks": (masks, {"masked_loss_probability": 0.6}),
    "captions": (captions, {}),
    "on demand": (on_demand, {}),
    "without caches": (without_caches, {}),
    "new crops": (new_crops, {}),
    "generated masks": (generated, {}),
    "eval data": (evaluated, {"eval_steps_interval": 2, "eval_timesteps": 2}),
}

OPTIONS = {"gradient_accumulation_steps": 2, "checkpoint_step_interval": 3, "caption_dropout_probability": 0.2}


def measured(recorded: Recorded, *, after: int = 0) -> list[object]:
    """Everything in numbers that a run says of its steps."""
    steps = [one for one in recorded.events if isinstance(one, StepDone) and one.step > after]
    losses = [one for one in recorded.events if isinstance(one, Evaluated) and one.step > after]
    return [
        *((one.step, one.epoch, one.loss, one.gradient_norm) for one in steps),
        *((one.step, sorted(one.losses.items())) for one in losses),
    ]


SHORT = ("windows", "masks") if os.environ.get("CI") else tuple(CASES)
"""The cases that are tried with empty caches too."""


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, model: Path, case: str) -> None:
    path, heard, expected = unbroken(tmp_path, model, case)
    after = resumed(path, model, heard, expected, step=3)
    stages = {event.stage for event in after.events if isinstance(event, StageStarted)}
    assert not stages & {"text embeddings", "image latents"} or case == "without caches"


@pytest.mark.slow
@pytest.mark.parametrize("case", SHORT)
def test_a_run_goes_on_just_so_when_its_caches_are_gone(tmp_path: Path, model: Path, case: str) -> None:
    path, heard, expected = unbroken(tmp_path, model, case)
    shutil.rmtree(path.parent / "cache")
    resumed(path, model, heard, expected, step=3)


@pytest.mark.slow
def test_data_sets_that_come_and_go_do_so_from_whichever_step_a_run_goes_on(tmp_path: Path, model: Path) -> None:
    path, heard, expected = unbroken(tmp_path, model, "windows", checkpoint_step_interval=1, checkpoints_total_limit=9)
    for step in (4,) if os.environ.get("CI") else (5, 4, 2, 1):
        resumed(path, model, heard, expected, step=step)


def unbroken(folder: Path, model: Path, case: str, **more: Any) -> tuple[Path, Recorded, dict[str, Tensor]]:
    """A run without a stop: its config, what it said and what it learned."""
    entries, options = CASES[case]
    path = house.write_run(folder / "run", entries(folder), **{**OPTIONS, **options, **more})
    outcome, heard = house.run(path, model)
    return path, heard, load_file(outcome.adapter)


def resumed(path: Path, model: Path, heard: Recorded, expected: dict[str, Tensor], *, step: int) -> Recorded:
    """The same run from a checkpoint on, as after a crash; it must not differ in a bit."""
    output = path.parent / "output"
    for late in output.glob("checkpoint-?"):
        if int(late.name[-1]) > step:
            shutil.rmtree(late)
    outcome, after = house.run(path, model)
    assert measured(after) == measured(heard, after=step) != []
    found = load_file(outcome.adapter)
    assert expected.keys() == found.keys() and all(equal(expected[name], found[name]) for name in expected)
    return after
