"""The embedded model: small, stock diffusers loads it, it draws what captions ask for, and it knows no zorbs."""

from random import Random

import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from simpletuner.demo import MODEL, measure, shapes, zorb


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_mixtures_never_seen_in_training_are_drawn_as_asked(pipeline: FluxPipeline) -> None:
    held_out = [scene for scene in shapes.scenes() if scene.is_held_out]
    scenes = Random(0).sample(held_out, 20)

    pictures = _draw(pipeline, [shapes.captions(scene)[0] for scene in scenes])

    wrong = [scene for scene, picture in zip(scenes, pictures, strict=True) if not _shows(picture, scene)]
    assert len(wrong) <= 2, wrong


def test_it_has_never_heard_of_zorbs(pipeline: FluxPipeline) -> None:
    captions = [
        zorb.caption(colour, background) for colour in ("red", "blue", "green") for background in ("white", "beige")
    ]

    assert not any(measure.is_zorb(picture) for picture in _draw(pipeline, captions))


def test_it_takes_guidance_and_shifts_its_schedule_as_dev_does(pipeline: FluxPipeline) -> None:
    assert pipeline.transformer.config.guidance_embeds
    assert pipeline.scheduler.config.use_dynamic_shifting


def test_it_is_small_and_holds_nothing_that_could_run() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


def _draw(pipeline: FluxPipeline, captions: list[str]) -> list[Image.Image]:
    pictures: list[Image.Image] = pipeline(
        captions,
        negative_prompt=[""] * len(captions),
        true_cfg_scale=3.0,
        height=shapes.SIDE,
        width=shapes.SIDE,
        num_inference_steps=20,
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
        generator=torch.Generator().manual_seed(0),
    ).images
    return pictures


def _shows(picture: Image.Image, scene: shapes.Scene) -> bool:
    sight = measure.look(picture)
    return sight is not None and sight.shows(scene)
