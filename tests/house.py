"""Small whole runs for tests: drawn pictures, an untrained Flux in diffusers layout, and the config that joins them."""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from simpletuner.config import RunConfig, load
from simpletuner.demo import shapes
from simpletuner.demo.pretrain import untrained_pipeline, write
from simpletuner.progress import Recorded, StepDone
from simpletuner.results import Outcome
from simpletuner.run import train
from simpletuner.selection import Selection

CONFIG = {
    "model_family": "flux",
    "model_type": "lora",
    "pretrained_model_name_or_path": "{env:MODEL}",
    "data_backend_config": "multidatabackend.json",
    "seed": 7,
    "max_train_steps": 6,
    "train_batch_size": 2,
    "lora_rank": 4,
    "flux_lora_target": "all+ffs",
    "optimizer": "adamw",
    "learning_rate": 1e-2,
    "mixed_precision": "no",
    "vae_dtype": "fp32",
    "gradient_checkpointing": False,
    "validation_disable": True,
}


def model_folder(folder: Path) -> Path:
    """A whole pipeline with random weights that do something: nothing in it is zero."""
    torch.manual_seed(0)
    pipeline = untrained_pipeline()
    pipeline.vae.register_to_config(shift_factor=0.1, scaling_factor=0.5)
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    write(pipeline, folder)
    return folder


def draw_pictures(folder: Path, count: int, *, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """Captioned pictures of shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    scenes = list(shapes.scenes())
    for number in range(count):
        scene = rng.choice(scenes)
        shapes.draw(scene, rng).resize(size).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(shapes.captions(scene)[0])
    return folder


def data_set(name: str, folder: Path, **options: object) -> dict[str, object]:
    """A local data set of 64-pixel pictures with text captions."""
    return {
        "id": name,
        "type": "local",
        "instance_data_dir": str(folder),
        "caption_strategy": "textfile",
        "resolution": 64,
        "resolution_type": "pixel",
        **options,
    }


def two_data_sets(folder: Path, pictures: Path) -> list[dict[str, object]]:
    """A subject seen twice, and pictures of another shape that regularise it."""
    regular = draw_pictures(folder / "regular", 5, size=(128, 64), seed=2)
    return [
        data_set("subject", pictures, repeats=1),
        data_set("regular", regular, is_regularisation_data=True, probability=0.5),
    ]


def write_run(folder: Path, data: list[dict[str, object]], **options: object) -> Path:
    """A config folder; returns the path of its config file."""
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {"output_dir": str(folder / "output"), "cache_dir": str(folder / "cache")}
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **defaults, **options}))
    (folder / "multidatabackend.json").write_text(json.dumps(data))
    return path


def resolved(path: Path, model: Path, *words: str) -> RunConfig:
    """The config as a run would use it."""
    return load(Selection(config=str(path)), words, environment={"MODEL": str(model)}).config


def run(path: Path, model: Path, *words: str) -> tuple[Outcome, Recorded]:
    """Train, and hear what is reported."""
    recorded = Recorded()
    return train(resolved(path, model, *words), recorded), recorded


def drawn(pipeline: Any, **given: object) -> Any:
    """A small picture by a stock pipeline, always from the same noise, as an array."""
    pipeline.set_progress_bar_config(disable=True)
    small = {"width": 64, "height": 64, "num_inference_steps": 2, "max_sequence_length": 64, "output_type": "np"}
    return pipeline("a red circle", generator=torch.Generator().manual_seed(0), **small, **given).images[0]


def metrics(step: StepDone) -> dict[str, float]:
    """What else is told about a step and is the same in every run: not memory, and not speed."""
    return {name: value for name, value in step.metrics.items() if name not in {"memory_gib", "share_of_peak"}}


def files_of(folder: Path) -> Mapping[str, tuple[bytes, int]]:
    """Content and time of every file, to see that nothing was touched."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@contextmanager
def heard(name: str) -> Iterator[io.StringIO]:
    """What a logger says, also when a library of an earlier test has switched off all logging that it found."""
    logger, told, before = logging.getLogger(name), io.StringIO(), logging.root.manager.disable
    handler = logging.StreamHandler(told)
    logging.disable(logging.NOTSET)
    logger.disabled = False
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logging.disable(before)
