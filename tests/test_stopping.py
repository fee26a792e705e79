"""A run that is asked to stop ends with a checkpoint, and goes on from it as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

import house
import pytest
import steps
from safetensors.torch import load_file
from torch import equal

from simpletuner.errors import CheckpointError, ConfigError, Stopped
from simpletuner.progress import Advanced, CheckpointSaved, ImagesSaved, Paused, Recorded, StageStarted, StepDone
from simpletuner.run import train
from simpletuner.training.group import Alone
from simpletuner.training.occasions import Timer
from simpletuner.training.saving import Kind, Rhythm
from simpletuner.training.signals import Wishes

OPTIONS = {"caption_dropout_probability": 0.3, "lora_dropout": 0.1, "checkpoint_step_interval": 0}


class Sends(Recorded):
    """Remembers, and sends this process a signal when a step is done."""

    def __init__(self, number, step):
        super().__init__()
        self._number, self._step = number, step

    def report(self, event):
        super().report(event)
        if isinstance(event, StepDone) and event.step == self._step:
            os.kill(os.getpid(), self._number)
            time.sleep(0.01)


@pytest.fixture
def data(pictures):
    return [house.data_set("subject", pictures)]


def losses(recorded):
    return [(event.step, event.loss, event.gradient_norm) for event in recorded.events if isinstance(event, StepDone)]


def saved(recorded):
    return [event.path.rpartition("/")[2] for event in recorded.events if isinstance(event, CheckpointSaved)]


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 2), (signal.SIGINT, 5), (signal.SIGTERM, 1)])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path, model, data, number, step):
    unbroken, heard = house.run(house.write_run(tmp_path / "whole", data, **OPTIONS), model)
    path = house.write_run(tmp_path / "broken", data, **OPTIONS)
    first = Sends(number, step)
    said = f"stopped after step {step} by {number.name}; everything is in .*checkpoint-{step}"
    with pytest.raises(Stopped, match=said):
        train(house.resolved(path, model), first)
    assert isinstance(first.events[-1], Paused)
    resumed, second = house.run(path, model)
    assert losses(first) + losses(second) == losses(heard)
    expected, found = load_file(unbroken.adapter), load_file(resumed.adapter)
    assert all(equal(expected[name], found[name]) for name in expected)


class SendsInValidation(Recorded):
    """Remembers, and sends this process a signal when the first of several pictures is drawn."""

    def report(self, event):
        is_drawn = isinstance(event, Advanced) and StageStarted("validation images", 3) in self.events
        super().report(event)
        if is_drawn and not any(isinstance(one, Paused) for one in self.events):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)


def test_a_run_that_is_stopped_while_it_draws_leaves_the_other_pictures_for_later(tmp_path, model, data):
    library = {name: f"a {name} circle" for name in ("red", "blue", "green")}
    drawing = {"validation_disable": False, "validation_resolution": "64x64", "validation_num_inference_steps": 1}
    options = {**OPTIONS, **drawing, "validation_step_interval": 2, "user_prompt_library": "prompts.json"}
    options |= {"validation_disable_unconditional": True, "disable_benchmark": True, "max_train_steps": 3}
    path = house.write_run(tmp_path, data, **options)
    (tmp_path / "prompts.json").write_text(json.dumps(library))
    first = SendsInValidation()
    with pytest.raises(Stopped, match="stopped after step 2 by SIGTERM; everything is in .*checkpoint-2"):
        train(house.resolved(path, model), first)
    begun = first.events.index(StageStarted("validation images", 3))
    assert sum(isinstance(event, Advanced) for event in first.events[begun:]) == 1
    assert "the pictures after step 2 are not drawn to the end: the run is asked to stop" in first.texts()[-1]
    _, second = house.run(path, model)
    assert [event.step for event in second.events if isinstance(event, ImagesSaved)] == [2, 3]
    assert [step for step, *_ in losses(second)] == [3]


def test_save_now_saves_and_goes_on(tmp_path, model, data):
    recorded = Sends(signal.SIGUSR1, 4)
    train(house.resolved(house.write_run(tmp_path, data, **OPTIONS), model), recorded)
    assert saved(recorded) == ["checkpoint-4", "checkpoint-6"]
    assert len(losses(recorded)) == 6


@dataclass(frozen=True)
class Waits(Alone):
    """A process that is asked to save while it waits for what the others say."""

    wishes: Wishes = field(default_factory=Wishes)

    def every(self, work):
        said = super().every(work)
        self.wishes.ask_to_save(signal.SIGUSR1, None)
        return said


def test_what_is_asked_while_others_are_waited_for_is_done_after_the_next_step(tmp_path, model, pictures):
    saving = steps.trainer(tmp_path, model, pictures, checkpoint_step_interval=0).saving
    waiting = replace(saving.runtime, group=Waits(wishes=saving.wishes))
    replace(saving, runtime=waiting).after_step(1)
    assert saving.checkpoints.all() == []
    saving.after_step(2)
    assert [path.name for path in saving.checkpoints.all()] == ["checkpoint-2"]


@dataclass(frozen=True)
class Two(Alone):
    """The first of two processes; of the other one only its answer is there."""

    answer: tuple[int, bool, Kind] = (0, False, Kind.NONE)

    def every(self, work):
        return [work(), self.answer]


def test_any_process_may_be_asked_for_a_checkpoint_but_only_the_first_one_has_the_clock(tmp_path, model, pictures):
    saving = steps.trainer(tmp_path, model, pictures, checkpoint_step_interval=0).saving
    answers = [(0, False, Kind.LASTING), (0, True, Kind.NONE), (0, False, Kind.ROLLING)]
    for step, answer in enumerate(answers, 1):
        replace(saving, runtime=replace(saving.runtime, group=Two(answer=answer))).after_step(step)
    assert [path.name for path in saving.checkpoints.all()] == ["checkpoint-2"]


def test_minutes_are_counted_from_the_last_checkpoint(tmp_path, model, pictures):
    seconds = iter([0, 59, 61, 61, 119, 122, 122])  # at the start, after each step, and after each checkpoint
    timer = Timer(1, clock=lambda: next(seconds))
    saving = replace(steps.trainer(tmp_path, model, pictures).saving, rhythm=Rhythm(timer=timer))
    for step in (1, 2, 3, 4):
        saving.after_step(step)
    assert saved(saving.reporter) == ["checkpoint-2-rolling", "checkpoint-4-rolling"]


def test_checkpoints_come_at_the_ends_of_epochs_and_rolling_ones_between(tmp_path, model, data):
    # 10 images in batches of 2: an epoch has 5 steps.
    options = {
        "checkpoint_step_interval": 0,
        "checkpoint_epoch_interval": 1,
        "checkpointing_rolling_steps": 2,
        "max_train_steps": 11,
    }
    outcome, recorded = house.run(house.write_run(tmp_path, data, **options), model)
    rolling = [f"checkpoint-{step}-rolling" for step in (2, 4, 6, 8)]
    assert saved(recorded) == [*rolling[:2], "checkpoint-5", *rolling[2:], "checkpoint-10", "checkpoint-11"]
    assert [path.name for path in outcome.checkpoints] == [
        "checkpoint-5",
        "checkpoint-8-rolling",
        "checkpoint-10",
        "checkpoint-11",
    ]


def test_a_checkpoint_comes_after_so_many_minutes(tmp_path, model, data):
    path = house.write_run(tmp_path, data, **OPTIONS, checkpoint_minutes_interval=1e-6, max_train_steps=3)
    _, recorded = house.run(path, model)
    assert saved(recorded) == ["checkpoint-1-rolling", "checkpoint-2-rolling", "checkpoint-3-rolling", "checkpoint-3"]


def test_a_run_goes_on_from_a_rolling_checkpoint(tmp_path, model, data):
    options = {**OPTIONS, "checkpointing_rolling_steps": 2}
    unbroken, _ = house.run(house.write_run(tmp_path / "whole", data, **options), model)
    path = house.write_run(tmp_path / "broken", data, **options)
    with pytest.raises(Stopped):
        train(house.resolved(path, model), Sends(signal.SIGTERM, 5))
    for late in (tmp_path / "broken" / "output").glob("checkpoint-5"):
        late.rename(tmp_path / "lost")
    resumed, heard = house.run(path, model)
    assert "resumed from checkpoint-4-rolling" in heard.texts()
    expected, found = load_file(unbroken.adapter), load_file(resumed.adapter)
    assert all(equal(expected[name], found[name]) for name in expected)


def test_a_disk_that_is_nearly_full_ends_the_run_before_anything_is_done(tmp_path, model, data):
    path = house.write_run(tmp_path, data, disk_low_threshold="900000T")
    with pytest.raises(CheckpointError, match=r"less than disk_low_threshold.*Nothing was begun: free some space"):
        house.run(path, model)
    assert not (tmp_path / "cache").exists()


def test_a_command_runs_for_every_checkpoint(tmp_path, model, data):
    (tmp_path / "note.py").write_text("import os, sys; print(sys.argv[2], sorted(os.listdir(sys.argv[1]))[0])")
    command = f"{sys.executable} {tmp_path / 'note.py'} {{local_checkpoint_path}} {{tracker_run_name}}-{{global_step}}"
    path = house.write_run(
        tmp_path, data, checkpoint_step_interval=3, post_checkpoint_script=command, checkpoints_total_limit=1
    )
    outcome, _ = house.run(path, model)
    log = (outcome.folder / "post_checkpoint_script.log").read_text()
    assert sorted(log.splitlines()) == [f"simpletuner-testing-{step} checkpoint_manifest.json" for step in (3, 6)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"post_checkpoint_script": "no-such-program-here"}, "post_checkpoint_script: there is no program"),
        ({"disk_low_action": "script"}, "disk_low_action, disk_low_script: go together"),
        ({"disk_low_action": "script", "disk_low_script": "no-such-program"}, "disk_low_script: there is no program"),
        ({"disk_low_threshold": "much"}, "disk_low_threshold: 'much' is no size"),
        ({"checkpoint_epoch_interval": 0}, "checkpoint_epoch_interval: must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_run(tmp_path, model, data, options, said):
    with pytest.raises(ConfigError) as refused:
        house.resolved(house.write_run(tmp_path, data, **options), model)
    assert said in str(refused.value)


@pytest.mark.slow
def test_the_command_line_says_where_everything_is_and_the_signal_is_its_exit_code(tmp_path, model, data):
    path = house.write_run(tmp_path, data, checkpoint_step_interval=1, max_train_steps=100_000)
    command = [sys.executable, "-m", "simpletuner", "train", "--config", str(path)]
    running = subprocess.Popen(
        command, env={**os.environ, "MODEL": str(model)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if (tmp_path / "output" / "checkpoint-2").exists() or running.poll() is not None:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert "by SIGTERM; everything is in" in said and "Traceback" not in said
