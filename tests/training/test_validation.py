"""Validation draws exactly what the stock pipeline of diffusers draws, and leaves training as it was."""

import house
import pytest
import stock
from PIL import Image

from simpletuner.building import build_trainer
from simpletuner.preparation import prepare
from simpletuner.progress import ImagesSaved, Recorded
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

PROMPT = "a red circle on a white background"
OPTIONS = {
    "validation_disable": False,
    "validation_prompt": PROMPT,
    "validation_resolution": "64x128",
    "validation_num_inference_steps": 4,
    "validation_guidance": 2.5,
    "validation_disable_unconditional": True,
    "validation_negative_prompt": "a blue square",
    "validation_no_cfg_until_timestep": 0,
    "validation_seed": 11,
    "max_train_steps": 2,
}


def alone(model, adapter, *, real):
    """The same picture through diffusers alone."""
    guided = {"negative_prompt": "a blue square", "true_cfg_scale": real, "guidance_scale": 2.5}
    size = {"width": 64, "height": 128, "num_inference_steps": 4}
    return stock.drawn(stock.pipeline(model, adapter), PROMPT, **guided, **size)


@pytest.mark.parametrize("real", [1.0, 3.0])
def test_pictures_with_and_without_the_adapter_equal_those_of_stock_diffusers(tmp_path, model, pictures, real):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **OPTIONS, validation_guidance_real=real)
    outcome, recorded = house.run(path, model)
    (saved,) = [event for event in recorded.events if isinstance(event, ImagesSaved)]
    ours = Image.open(saved.paths[0])
    (base,) = (outcome.folder / "benchmarks" / "base_model").glob("validation_64x128_*.png")
    assert ours.size == (64, 128)
    with_adapter, without = alone(model, outcome.adapter, real=real), alone(model, None, real=real)
    assert stock.differ(ours, with_adapter) <= 1
    assert stock.differ(base, without) <= 1
    assert stock.differ(with_adapter, without) > 1


@pytest.mark.parametrize(("first", "passes"), [(1, 4 + 3), (3, 4 + 1)])
def test_real_guidance_takes_a_second_pass_from_its_step_on(tmp_path, model, pictures, first, passes):
    options = {**OPTIONS, "validation_guidance_real": 3.0, "validation_no_cfg_until_timestep": first}
    config = house.resolved(house.write_run(tmp_path, [house.data_set("subject", pictures)], **options), model)
    runtime, checkpoints = Runtime.start("no", 7), Checkpoints(tmp_path / "output", 0)
    prepared = prepare(config, runtime, Recorded())
    trainer = build_trainer(config, prepared, checkpoints, runtime, Recorded())
    seen = []
    trainer.denoiser.module.register_forward_pre_hook(lambda *given: seen.append(given))
    trainer.validation.draw_base(trainer.denoiser, trainer.trained)
    assert len(seen) == passes
    prepared.close()


def test_drawing_on_the_way_does_not_change_what_is_learned(tmp_path, model, pictures):
    data = [house.data_set("subject", pictures)]
    without = house.write_run(tmp_path / "without", data, lora_dropout=0.2)
    drawing = {**OPTIONS, "max_train_steps": 6, "validation_step_interval": 1, "lora_dropout": 0.2}
    path = house.write_run(tmp_path / "with", data, **drawing)
    first, second = house.run(without, model)[0], house.run(path, model)[0]
    assert first.adapter.read_bytes() == second.adapter.read_bytes()


def test_the_base_is_drawn_once_and_again_when_its_settings_change(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **OPTIONS)
    folder = tmp_path / "output" / "benchmarks" / "base_model"
    house.run(path, model)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    house.run(path, model, "max_train_steps=3")
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    house.run(path, model, "max_train_steps=4", "validation_guidance=9")
    assert len(list(folder.iterdir())) == 2


def test_every_prompt_size_and_number_gives_a_picture_and_a_place_on_the_sheet(tmp_path, model, pictures):
    library = tmp_path / "prompts.json"
    library.write_text('{"one": "a green star", "two": {"prompt": "a red ring"}}')
    options = {**OPTIONS, "validation_resolution": "64x64,128x64", "num_validation_images": 2}
    options |= {"user_prompt_library": str(library), "validation_disable_unconditional": False}
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **options)
    _, recorded = house.run(path, model)
    (saved,) = [event for event in recorded.events if isinstance(event, ImagesSaved)]
    assert len(saved.paths) == 4 * 2 * 2 and len(set(saved.paths)) == len(saved.paths)
    assert sorted({Image.open(one).size for one in saved.paths}) == [(64, 64), (128, 64)]
    sheet = Image.open(saved.sheet)
    assert sheet.width > 4 * 256 and sheet.height > 8 * 256


def test_an_adapter_with_dropout_is_drawn_without_it(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **OPTIONS, lora_dropout=0.9)
    outcome, recorded = house.run(path, model)
    (saved,) = [event for event in recorded.events if isinstance(event, ImagesSaved)]
    assert stock.differ(saved.paths[0], alone(model, outcome.adapter, real=1.0)) <= 1
