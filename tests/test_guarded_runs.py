"""Whole runs whose numbers go wrong: they end with a cause, or leave those steps out, and say what steps cost."""

import house
import pytest
import torch
from safetensors.torch import load_file

from simpletuner import watching
from simpletuner.caching import entries
from simpletuner.errors import TrainingError
from simpletuner.progress import StepDone
from simpletuner.training.gauges import Gauges
from simpletuner.training.runtime import Runtime

WILD = {"learning_rate": 1e30, "max_grad_norm": 0, "max_train_steps": 12}


@pytest.fixture
def write(tmp_path, pictures):
    def written(**options):
        return house.write_run(tmp_path, [house.data_set("subject", pictures)], **options)

    return written


def test_a_run_that_explodes_names_step_images_and_what_would_help(write, model):
    told = r"of step 2 is not a finite number; the images were \d+.*png of data set 'subject'. .* a lower learning_rate"
    with pytest.raises(TrainingError, match=told):
        house.run(write(**WILD), model)


def test_a_run_that_is_told_to_leave_such_steps_out_ends_when_there_is_nothing_else(write, model):
    with pytest.raises(TrainingError, match="step 11 is not .* and so were the 9 steps before, all left out"):
        house.run(write(**WILD, non_finite_action="skip"), model)


def test_every_step_says_how_much_memory_it_takes_and_how_well_the_device_is_used(write, model):
    _, recorded = house.run(write(max_train_steps=2), model)
    steps = [event for event in recorded.events if isinstance(event, StepDone)]
    assert all(one.metrics["memory_gib"] > 0.1 for one in steps)
    assert all(0 < one.metrics["share_of_peak"] < 1 for one in steps)


ROUTE = {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": 4}]}


FULL = {"model_type": "full", "lora_rank": None, "flux_lora_target": None}


@pytest.mark.parametrize(("options", "passes"), [({}, 2), ({"tread_config": ROUTE}, 2 * (1 - 0.5 * 4 / 7)), (FULL, 3)])
def test_the_work_of_a_step_is_counted_in_forward_passes(write, model, options, passes):
    config = house.resolved(write(**options), model)
    assert watching.gauges(config, Runtime.start("no", 7), blocks=7).passes == pytest.approx(passes)


def test_the_share_of_the_peak_is_the_work_of_all_batches_over_the_time_of_the_step():
    gauges = Gauges(torch.device("cpu"), rate=4e9, passes=2.0)
    assert gauges.read([1e9, 3e9], seconds=5.0)["share_of_peak"] == 0.4


def poisoned(folder):
    """Makes the cached latents of one image no numbers."""
    path = sorted(path for path in (folder / "cache" / "vae").rglob("*.safetensors"))[0]
    tensors = entries.unpacked(path.read_bytes())
    path.write_bytes(entries.packed({name: torch.full_like(one, torch.nan) for name, one in tensors.items()}, ""))


def test_a_run_with_an_average_that_left_out_a_step_goes_on_as_if_it_had_not_been_stopped(write, model, tmp_path):
    path = write(use_ema=True, non_finite_action="skip", train_batch_size=1, lr_scheduler="constant")
    house.run(path, model, "max_train_steps=1")
    poisoned(tmp_path)
    whole, recorded = house.run(path, model, f"output_dir={tmp_path / 'whole'}", "max_train_steps=12")
    told = [text for text in recorded.texts() if "The step is left out." in text]
    left_out = int(told[0].partition("of step ")[2].split()[0])
    assert left_out < 12
    part = f"output_dir={tmp_path / 'parts'}"
    house.run(path, model, part, f"max_train_steps={left_out}")
    parts, _ = house.run(path, model, part, "max_train_steps=12")
    for name in ("pytorch_lora_weights.safetensors", "ema/pytorch_lora_weights.safetensors"):
        one, two = load_file(whole.folder / name), load_file(parts.folder / name)
        assert all(torch.equal(one[key], two[key]) for key in one)
