"""Interrupting a run changes nothing: not a bit of the weights, not a loss, not the order of the data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import house
import pytest
from safetensors.torch import load_file
from torch import equal

from simpletuner.errors import CheckpointError
from simpletuner.progress import StepDone, TrainingStarted

EVERYTHING = {
    "gradient_accumulation_steps": 2,
    "caption_dropout_probability": 0.3,
    "lora_dropout": 0.1,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "checkpoint_step_interval": 3,
    "tread_config": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": -2}]},
}


@pytest.fixture
def data(tmp_path, pictures):
    return house.two_data_sets(tmp_path, pictures)


def losses(recorded):
    return [(event.step, event.loss, event.gradient_norm) for event in recorded.events if isinstance(event, StepDone)]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_bf16", "bnb-adamw8bit"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_three_steps_and_three_more_are_six_steps(tmp_path, model, data, optimizer, precision):
    options = {**EVERYTHING, "optimizer": optimizer, "mixed_precision": precision}
    whole = house.write_run(tmp_path / "whole", data, **options)
    broken = house.write_run(tmp_path / "broken", data, **options)
    unbroken, heard = house.run(whole, model)
    first = stopped(broken, model)
    resumed, second = house.run(broken, model)
    assert [event.step for event in second.events if isinstance(event, TrainingStarted)] == [3]
    assert first + losses(second) == losses(heard)
    expected, found = load_file(unbroken.adapter), load_file(resumed.adapter)
    assert expected.keys() == found.keys() and all(equal(expected[name], found[name]) for name in expected)


def stopped(path, model):
    """Train six steps, then take away everything after the checkpoint of step 3, as a crash would have."""
    outcome, heard = house.run(path, model)
    for late in outcome.folder.glob("checkpoint-6"):
        shutil.rmtree(late)
    outcome.adapter.unlink()
    return losses(heard)[:3]


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, **EVERYTHING)
    outcome, _ = house.run(path, model)
    os.truncate(outcome.folder / "checkpoint-6" / "optimizer.safetensors", 100)
    _, heard = house.run(path, model)
    assert any("checkpoint-6 is passed over: optimizer.safetensors" in text for text in heard.texts())
    assert [event.step for event in heard.events if isinstance(event, StepDone)] == [4, 5, 6]


def test_a_finished_run_that_is_started_again_trains_no_step(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data)
    first, _ = house.run(path, model)
    before = first.adapter.read_bytes()
    second, heard = house.run(path, model)
    assert not [event for event in heard.events if isinstance(event, StepDone)]
    assert second.adapter.read_bytes() == before


def test_a_run_without_a_seed_goes_on_with_the_seed_it_began_with(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, seed=None, checkpoint_step_interval=3, max_train_steps=3)
    outcome, _ = house.run(path, model)
    seed = json.loads((outcome.folder / "checkpoint-3" / "training_state.json").read_text())["seed"]
    house.run(path, model, "max_train_steps=6")
    assert json.loads((outcome.folder / "checkpoint-6" / "training_state.json").read_text())["seed"] == seed


def test_another_seed_does_not_resume(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, max_train_steps=2)
    house.run(path, model)
    with pytest.raises(CheckpointError, match="seed was 7, is 8"):
        house.run(path, model, "max_train_steps=4", "seed=8")


def test_changed_options_are_told_when_a_run_goes_on(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, max_train_steps=2)
    house.run(path, model)
    _, same = house.run(path, model, "max_train_steps=3")
    assert not [text for text in same.texts() if "other options" in text]
    _, other = house.run(path, model, "max_train_steps=4", "learning_rate=0.5")
    assert [text for text in other.texts() if "other options" in text] == [
        "the checkpoint was made with other options: learning_rate was 0.01, is 0.5"
    ]


def test_a_checkpoint_that_does_not_exist_is_refused_with_those_that_do(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, max_train_steps=2)
    house.run(path, model)
    with pytest.raises(CheckpointError, match="no checkpoint 'checkpoint-9'.* there are: checkpoint-2"):
        house.run(path, model, "resume_from_checkpoint=checkpoint-9")


@pytest.mark.parametrize("length", [{"max_train_steps": 1}, {"max_train_steps": 0, "num_train_epochs": 0.2}])
def test_a_run_that_is_over_is_told_to_be(tmp_path, model, data, length):
    path = house.write_run(tmp_path / "run", data, **length)
    outcome, _ = house.run(path, model)
    _, again = house.run(path, model)
    step = outcome.steps
    assert again.texts()[-1] == f"nothing is left to train: this is step {step}, and the run ends at {step}"


@pytest.mark.slow
def test_kill_in_training_loses_only_the_steps_since_the_last_checkpoint(tmp_path, model, data):
    options = {**EVERYTHING, "checkpoint_step_interval": 2, "max_train_steps": 12}
    unbroken, heard = house.run(house.write_run(tmp_path / "whole", data, **options), model)
    path = house.write_run(tmp_path / "killed", data, **options)
    command = [sys.executable, "-m", "simpletuner", "train", "--config", str(path)]
    running = subprocess.Popen(command, env={**os.environ, "MODEL": str(model)}, stdout=subprocess.DEVNULL)
    _wait_for(tmp_path / "killed" / "output" / "checkpoint-4")
    running.send_signal(signal.SIGKILL)
    running.wait()
    resumed, after = house.run(path, model)
    assert losses(after) == losses(heard)[-len(losses(after)) :]
    expected, found = load_file(unbroken.adapter), load_file(resumed.adapter)
    assert all(equal(expected[name], found[name]) for name in expected)


def _wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} did not appear")


def test_starting_anew_keeps_its_own_checkpoints_and_goes_on_from_them(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, checkpoint_step_interval=1, checkpoints_total_limit=1)
    house.run(path, model)
    _, heard = house.run(path, model, "resume_from_checkpoint=none", "max_train_steps=2")
    output = tmp_path / "run" / "output"
    assert [one.name for one in output.glob("checkpoint-?")] == ["checkpoint-2"]
    assert any("it is checkpoint-6.superseded now" in text for text in heard.texts())
    _, after = house.run(path, model, "max_train_steps=3")
    assert "resumed from checkpoint-2" in after.texts()


@pytest.mark.parametrize(("first", "second"), [("adamw", "bnb-adamw8bit"), ("bnb-adamw8bit", "bnb-lion8bit")])
def test_another_optimizer_does_not_go_on_from_the_state_of_the_first(tmp_path, model, data, first, second):
    path = house.write_run(tmp_path / "run", data, max_train_steps=2)
    house.run(path, model, f"optimizer={first}")
    with pytest.raises(CheckpointError, match=f"optimizer was '{first}', is '{second}'"):
        house.run(path, model, "max_train_steps=4", f"optimizer={second}")


def test_settings_of_the_optimizer_that_were_changed_act_after_resuming(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, max_train_steps=3)
    outcome, _ = house.run(path, model)
    shutil.copytree(outcome.folder, tmp_path / "copy")
    plain, _ = house.run(path, model, "max_train_steps=6")
    decayed, _ = house.run(
        path, model, "max_train_steps=6", f"output_dir={tmp_path}/copy", "optimizer_config=weight_decay=0.9"
    )
    first, second = load_file(plain.adapter), load_file(decayed.adapter)
    assert any(not equal(first[name], second[name]) for name in first)


def test_data_that_changed_since_the_checkpoint_is_told(tmp_path, model, pictures):
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)], checkpoint_step_interval=3)
    house.run(path, model, "max_train_steps=3")
    count = len(list(pictures.glob("*.png")))
    house.draw_pictures(tmp_path / "more", 1, seed=77)
    shutil.copy(tmp_path / "more" / "000.png", pictures / "new.png")
    shutil.copy(tmp_path / "more" / "000.txt", pictures / "new.txt")
    _, recorded = house.run(path, model)
    changed = f"had {count} images and has {count + 1} now"
    told = f"data set 'subject' {changed}: from here on, the order of the images is another one"
    (pictures / "new.png").unlink()
    (pictures / "new.txt").unlink()
    assert told in recorded.texts()
