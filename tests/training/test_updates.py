"""A run with any optimizer and schedule: exact after an interruption, and what is saved is what is to be used."""

import os

import house
import pytest
import torch
from safetensors.torch import load_file

from simpletuner.errors import ConfigError
from simpletuner.progress import StepDone
from simpletuner.training.checkpoint import read_state

KINDS = {
    "adamw_schedulefree": {"learning_rate": 1e-2, "use_ema": True, "gradient_accumulation_steps": 2},
    "prodigy": {"optimizer_config": "d0=1e-3", "loraplus_lr_ratio": 4},
    "prodigyopt": {"optimizer_config": {"d0": 1e-3}, "lr_scheduler": "cosine"},
    "adafactor": {"optimizer_config": "relative_step=true"},
    "optimi-adan": {"optimizer_beta1": 0.9, "optimizer_beta2": 0.8},
    "soap": {},
    "muon": {"lr_scheduler": "warmup_stable_decay", "lr_decay_steps": "50%"},
    "dadapt-lion": {"optimizer_config": "d0=1e-3"},
    "bnb-ademamix8bit": {"lr_scheduler": "sine", "lr_num_cycles": 2},
}
AVERAGING = ["adamw_schedulefree", "prodigy"]


@pytest.fixture
def data(pictures):
    return [house.data_set("subject", pictures)]


def steps(recorded):
    done = [event for event in recorded.events if isinstance(event, StepDone)]
    return [(event.step, event.loss, event.gradient_norm, event.learning_rate, house.metrics(event)) for event in done]


def same(one, other):
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", AVERAGING if os.environ.get("CI") else KINDS)
def test_three_steps_and_three_more_are_six_steps(tmp_path, model, data, optimizer):
    options = {"optimizer": optimizer, "lr_warmup_steps": 2, **KINDS[optimizer]}
    whole, heard = house.run(house.write_run(tmp_path / "whole", data, **options), model)
    path = house.write_run(tmp_path / "broken", data, **options)
    # The run is as long, so that its schedule is the same, and its later half is lost.
    _, first = house.run(path, model, "checkpoint_step_interval=3")
    output = tmp_path / "broken" / "output"
    for late in output.glob("checkpoint-6"):
        late.rename(tmp_path / "lost")
    resumed, second = house.run(path, model)
    assert steps(first)[:3] + steps(second) == steps(heard)
    assert same(whole.adapter, resumed.adapter)


def distance(one, other):
    return float((one - other).abs().max()) if one.shape == other.shape else float("inf")


@pytest.mark.parametrize("optimizer", AVERAGING)
def test_saving_and_drawing_on_the_way_change_no_bit(tmp_path, model, data, optimizer):
    options = {"optimizer": optimizer, "lr_warmup_steps": 2, **KINDS[optimizer]}
    plain, heard = house.run(house.write_run(tmp_path / "plain", data, **options), model)
    drawing = {
        "validation_disable": False,
        "validation_prompt": "a red circle",
        "validation_resolution": "64x64",
        "validation_num_inference_steps": 1,
        "validation_step_interval": 2,
        "checkpoint_step_interval": 1,
    }
    busy, also = house.run(house.write_run(tmp_path / "busy", data, **options, **drawing), model)
    assert steps(also) == steps(heard) and same(plain.adapter, busy.adapter)


@pytest.mark.parametrize("optimizer", AVERAGING)
def test_what_is_saved_is_the_average_and_what_is_trained_is_kept_for_going_on(tmp_path, model, data, optimizer):
    options = {"optimizer": optimizer, **KINDS[optimizer]}
    outcome, _ = house.run(house.write_run(tmp_path / "run", data, **options), model)
    saved = read_state(outcome.folder / "checkpoint-6" / "optimizer.safetensors")
    beta = saved["param_groups"][0]["betas"][0]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    found = list(load_file(outcome.adapter).values())
    for number, trained in zip(numbers, saved["weights"], strict=True):
        # Schedule-free (Defazio et al. 2024): the trained y lies between the base z and the average x.
        average = (trained - (1 - beta) * saved["state"][number]["z"]) / beta
        assert min(distance(one, average) for one in found) < 1e-5
        assert min(distance(one, trained) for one in found) > 1e-4


def test_a_rate_that_was_found_is_reported_and_goes_by_its_factor(tmp_path, model, data):
    options = {"optimizer": "prodigy", "learning_rate": 1e-4, "optimizer_config": "d0=1e-3,lr=0.5"}
    path = house.write_run(tmp_path / "run", data, **options)
    _, recorded = house.run(path, model, "max_train_steps=2")
    assert [rate for _, _, _, rate, _ in steps(recorded)] == [0.5, 0.5]
    assert all(metrics["prodigy_d"] >= 1e-3 for *_, metrics in steps(recorded))


def test_warm_up_in_percent_is_counted_from_the_whole_run(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, lr_warmup_steps="50%", max_train_steps=4, learning_rate=0.1)
    outcome, recorded = house.run(path, model)
    assert [rate for _, _, _, rate, _ in steps(recorded)] == pytest.approx([0.05, 0.1, 0.1, 0.1])
    assert "50% warm-up steps" in (outcome.folder / "README.md").read_text()


@pytest.mark.parametrize("optimizer", ["adamw", "optimi-adamw"])
def test_a_fused_backward_pass_and_releasing_gradients_change_nothing_of_what_is_learned(
    tmp_path, model, data, optimizer
):
    options = {"optimizer": optimizer, "grad_clip_method": "value", "max_train_steps": 4, "checkpoint_step_interval": 2}
    whole, _ = house.run(house.write_run(tmp_path / "whole", data, **options), model)
    for name in ("fused_backward_pass", "optimizer_release_gradients"):
        path = house.write_run(tmp_path / name, data, **options, **{name: True})
        house.run(path, model, "max_train_steps=2")
        assert same(house.run(path, model)[0].adapter, whole.adapter)


def test_several_rates_are_refused_where_there_is_one_for_all(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, optimizer="prodigyopt", loraplus_lr_ratio=4)
    with pytest.raises(ConfigError, match="optimizer: 'prodigyopt' has one learning rate for all weights"):
        house.run(path, model)


def test_a_setting_that_the_optimizer_does_not_take_is_told_before_any_other_work(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, optimizer="muon", optimizer_config="qk_clip=100,nesterov=maybe")
    with pytest.raises(ConfigError, match="optimizer_config: .*for optimizer 'muon'"):
        house.run(path, model)
    assert not list((tmp_path / "run" / "cache").rglob("*.safetensors"))
