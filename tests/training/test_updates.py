"""A run with any optimizer and schedule: exact after an interruption, and what is saved is what is to be used."""

import os
from dataclasses import replace

import house
import pytest
import torch
from safetensors.torch import load_file

from simpletuner import plans
from simpletuner.building import build_trainer
from simpletuner.errors import ConfigError
from simpletuner.models.trained import parameters_of
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded, StepDone
from simpletuner.training.checkpoint import Checkpoints, read_state
from simpletuner.training.group import Alone
from simpletuner.training.place import Place
from simpletuner.training.runtime import Runtime
from simpletuner.training.schedule import Schedule

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


def built(folder, model, data, precision="no", **options):
    """The trainer of a run."""
    config = house.resolved(house.write_run(folder, data, mixed_precision=precision, **options), model)
    runtime = Runtime.start(precision, config.run.seed)
    prepared = prepare(config, runtime, Recorded())
    return build_trainer(config, prepared, Checkpoints(folder / "output", 0), runtime, Recorded())


def copies(weights):
    return [one.detach().clone() for one in weights]


def test_pictures_are_drawn_and_losses_measured_with_the_average(tmp_path, model, data):
    held_out = house.draw_pictures(tmp_path / "held out", 1, seed=5)
    drawing = {
        "validation_disable": False,
        "validation_prompt": "a red circle",
        "validation_disable_unconditional": True,
        "validation_resolution": "64x64",
        "validation_num_inference_steps": 1,
        "disable_benchmark": True,
    }
    options = {"optimizer": "adamw_schedulefree", "max_train_steps": 2, "eval_steps_interval": 2, "eval_timesteps": 1}
    whole = [*data, house.data_set("held out", held_out, dataset_type="eval")]
    trainer = built(tmp_path / "run", model, whole, **options, **drawing)
    weights, seen = list(parameters_of(trainer.trained).values()), []
    trainer.denoiser.module.register_forward_pre_hook(
        lambda module, given: None if module.training else seen.append(copies(weights))
    )
    trainer.fit(None)
    trained = copies(weights)
    with trainer.updates.evaluating():
        average = copies(weights)
    assert len(seen) == 2
    assert all(torch.equal(one, other) for found in seen for one, other in zip(found, average, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(trained, average, strict=True))


def test_rounding_depends_on_the_step_alone_and_so_is_the_same_in_every_process(tmp_path, model, data):
    found = []
    for number in (1, 2):
        trainer = built(tmp_path / str(number), model, data, "bf16", optimizer="adamw_bf16")
        for one in parameters_of(trainer.trained).values():
            one.grad = torch.full_like(one, 1 / 3)
        torch.manual_seed(number)
        trainer.updates.apply(0)
        found.append([one["exp_avg"] for one in trainer.updates.optimizer.state.values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert len(found[0][0].unique()) > 1


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


def test_weights_with_a_rate_of_their_own_move_by_it(tmp_path, model, data):
    options = {"learning_rate": 1e-3, "optimizer_config": "weight_decay=0", "max_train_steps": 1}
    outcome, _ = house.run(house.write_run(tmp_path, data, loraplus_lr_ratio=4, **options), model)
    # The first step of Adam is as long as the rate, whatever the gradient; and these weights begin at zero.
    moved = [float(one.abs().max()) for name, one in load_file(outcome.adapter).items() if "lora_B" in name]
    assert max(moved) == pytest.approx(4e-3, rel=1e-3)


def test_the_rate_is_scaled_by_the_images_of_all_batches_and_processes_of_a_step(tmp_path, model, data):
    path = house.write_run(tmp_path, data, learning_rate=1e-4, lr_scale=True, train_batch_size=2)
    together = replace(Runtime.start("no", 1), group=Alone(Place(processes=2)))
    schedule = Schedule(total_steps=6, epochs=1, accumulation=3)
    assert plans.learning_rate(house.resolved(path, model), schedule, together).peak == pytest.approx(12e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "optimi-adamw"])
def test_a_fused_backward_pass_and_releasing_gradients_change_nothing_of_what_is_learned(
    tmp_path, model, data, optimizer
):
    options = {"optimizer": optimizer, "grad_clip_method": "value", "max_train_steps": 4, "checkpoint_step_interval": 2}
    whole, heard = house.run(house.write_run(tmp_path / "whole", data, **options), model)
    for name in ("fused_backward_pass", "optimizer_release_gradients"):
        path = house.write_run(tmp_path / name, data, **options, **{name: True})
        _, first = house.run(path, model, "max_train_steps=2")
        outcome, second = house.run(path, model)
        assert same(outcome.adapter, whole.adapter)
        norms = [norm for _, _, norm, *_ in steps(first) + steps(second)]
        assert norms == pytest.approx([norm for _, _, norm, *_ in steps(heard)], rel=1e-5)


@pytest.mark.parametrize("is_fused", [True, False])
def test_updates_in_the_backward_pass_may_be_switched_on_or_off_on_the_way(tmp_path, model, data, is_fused):
    options = {"grad_clip_method": "value", "max_train_steps": 4, "checkpoint_step_interval": 2, "loraplus_lr_ratio": 4}
    whole, _ = house.run(house.write_run(tmp_path / "whole", data, **options), model)
    path = house.write_run(tmp_path / "broken", data, **options)
    house.run(path, model, "max_train_steps=2", f"fused_backward_pass={is_fused}")
    assert same(house.run(path, model, f"fused_backward_pass={not is_fused}")[0].adapter, whole.adapter)


def test_several_rates_are_refused_where_there_is_one_for_all(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, optimizer="prodigyopt", loraplus_lr_ratio=4)
    with pytest.raises(ConfigError, match="optimizer: 'prodigyopt' has one learning rate for all weights"):
        house.run(path, model)


def test_a_setting_that_the_optimizer_does_not_take_is_told_before_any_other_work(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, optimizer="muon", optimizer_config="qk_clip=100,nesterov=maybe")
    with pytest.raises(ConfigError, match="optimizer_config: .*for optimizer 'muon'"):
        house.run(path, model)
    assert not list((tmp_path / "run" / "cache").rglob("*.safetensors"))
