"""The average of a run: exact across interruptions, written beside the result, and drawn with in validation."""

import json
import shutil

import house
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import equal

from simpletuner.progress import CheckpointSaved, ImagesSaved, StepDone

EVERYTHING = {
    "use_ema": True,
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 2,
    "caption_dropout_probability": 0.3,
    "lr_scheduler": "cosine",
    "checkpoint_step_interval": 3,
}
LOKR = {
    "lora_type": "lycoris",
    "lycoris_config": {
        "algo": "lokr",
        "multiplier": 1.0,
        "linear_dim": 10000,
        "linear_alpha": 1,
        "factor": 4,
        "apply_preset": {"target_module": ["Attention", "FeedForward"]},
    },
}


@pytest.fixture
def data(tmp_path, pictures):
    return house.two_data_sets(tmp_path, pictures)


def losses(recorded):
    return [(event.step, event.loss, event.gradient_norm) for event in recorded.events if isinstance(event, StepDone)]


def is_equal(one, other):
    expected, found = load_file(one), load_file(other)
    return expected.keys() == found.keys() and all(equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw_bf16", "mixed_precision": "bf16", "lora_dropout": 0.1},
        {"optimizer": "adamw", "ema_update_interval": 2, "ema_device": "accelerator"},
        {"optimizer": "bnb-adamw8bit", "ema_warmup_steps": 2, "ema_cpu_only": True},
        {"optimizer": "adamw", **LOKR},
        pytest.param({"optimizer": "adamw_schedulefree"}, marks=pytest.mark.slow),
    ],
    ids=["bf16", "interval", "warm-up", "lokr", "schedule-free"],
)
def test_three_steps_and_three_more_are_six_steps(tmp_path, model, data, options):
    unbroken, heard = house.run(house.write_run(tmp_path / "whole", data, **EVERYTHING, **options), model)
    path = house.write_run(tmp_path / "broken", data, **EVERYTHING, **options)
    first, _ = house.run(path, model)
    for late in (first.folder / "checkpoint-6", first.folder / "ema"):
        shutil.rmtree(late)
    resumed, second = house.run(path, model)
    assert losses(second) == losses(heard)[3:]
    assert is_equal(unbroken.adapter, resumed.adapter)
    for name in ("ema.safetensors", "ema/pytorch_lora_weights.safetensors"):
        assert is_equal(unbroken.folder / "checkpoint-6" / name, resumed.folder / "checkpoint-6" / name)
    average = resumed.folder / "ema" / resumed.adapter.name
    assert is_equal(unbroken.folder / "ema" / unbroken.adapter.name, average)
    assert not is_equal(average, resumed.adapter)


@pytest.mark.slow
def test_three_steps_and_three_more_of_a_whole_model_are_six(tmp_path, model, pictures):
    options = {"model_type": "full", "use_ema": True, "checkpoint_step_interval": 3, "learning_rate": 1e-4}
    unbroken, heard = house.run(whole_model(tmp_path / "whole", pictures, options), model)
    path = whole_model(tmp_path / "broken", pictures, options)
    first, _ = house.run(path, model)
    for late in (first.folder / "checkpoint-6", first.folder / "ema"):
        shutil.rmtree(late)
    resumed, second = house.run(path, model)
    assert losses(second) == losses(heard)[3:]
    for folder in ("ema/transformer", "transformer"):
        name = f"{folder}/diffusion_pytorch_model.safetensors"
        assert is_equal(unbroken.folder / name, resumed.folder / name)
    assert not (resumed.folder / "checkpoint-6" / "ema").exists()


def whole_model(folder, pictures, options):
    """A config that trains all weights, without what is about adapters."""
    path = house.write_run(folder, [house.data_set("one", pictures)], **options)
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in kept.items() if "lora" not in name}))
    return path


def test_the_average_of_a_run_is_that_of_its_checkpoints(tmp_path, model, pictures):
    options = {"use_ema": True, "ema_decay": 0.4, "checkpoint_step_interval": 1, "checkpoints_total_limit": 0}
    outcome, _ = house.run(house.write_run(tmp_path, [house.data_set("one", pictures)], **options), model)
    steps = [load_file(outcome.folder / f"checkpoint-{step}" / outcome.adapter.name) for step in range(1, 7)]
    expected = {name: value.double() for name, value in steps[0].items()}
    for step, weights in enumerate(steps[1:], 2):
        kept = min(0.4, step / (9 + step))
        expected = {name: kept * value + (1 - kept) * weights[name].double() for name, value in expected.items()}
    found = load_file(outcome.folder / "ema" / outcome.adapter.name)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-7)


def test_training_is_the_same_with_and_without_an_average(tmp_path, model, data):
    plain, one = house.run(house.write_run(tmp_path / "plain", data), model)
    averaged, other = house.run(house.write_run(tmp_path / "averaged", data, use_ema=True), model)
    assert losses(one) == losses(other) and is_equal(plain.adapter, averaged.adapter)


def test_an_average_that_is_switched_on_later_begins_there_and_is_told(tmp_path, model, data):
    path = house.write_run(tmp_path, data, max_train_steps=3)
    house.run(path, model)
    outcome, heard = house.run(path, model, "use_ema=true", "max_train_steps=5")
    assert "the checkpoint was made with other options: use_ema was False, is True" in heard.texts()
    assert not is_equal(outcome.folder / "ema" / outcome.adapter.name, outcome.adapter)


@pytest.mark.parametrize(
    ("view", "expected"),
    [("none", {""}), ("ema_only", {"ema"}), ("comparison", {"", "ema"})],
)
def test_validation_draws_with_the_weights_with_the_average_or_with_both(tmp_path, model, pictures, view, expected):
    path = house.write_run(
        tmp_path,
        [house.data_set("one", pictures)],
        use_ema=True,
        ema_decay=0.999,
        ema_warmup_steps=1,
        ema_validation=view,
        learning_rate=0.05,
        validation_disable=False,
        validation_prompt="a red circle",
        validation_resolution="64x64",
        validation_num_inference_steps=2,
        validation_step_interval=10,
        max_train_steps=4,
    )
    _, heard = house.run(path, model)
    (shown,) = [event for event in heard.events if isinstance(event, ImagesSaved)]
    assert {"ema" if "__ema" in name else "" for name in shown.paths} == expected
    assert len({Image.open(name).tobytes() for name in shown.paths}) == len(shown.paths)
    saved = [event.step for event in heard.events if isinstance(event, CheckpointSaved)]
    assert saved == [4]
