"""Several processes train what one would have trained, in the same order, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import house
import processes
import pytest
import tiny
import torch
from safetensors.torch import load_file

from simpletuner.building import build_trainer
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.adapter import AdapterFile
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.family import Compute
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded, StepDone
from simpletuner.run import train
from simpletuner.training.batches import Batch
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.group import joined
from simpletuner.training.runtime import Runtime

OPTIONS = {"caption_dropout_probability": 0.3, "lora_dropout": 0.1, "train_batch_size": 1}
COMMAND = [sys.executable, "-m", "simpletuner", "train"]


@pytest.fixture
def data(tmp_path, pictures):
    return house.two_data_sets(tmp_path, pictures)


def run(place, path, model, *words):
    """Train; what one process of the run heard, and where the weights are."""
    heard = Recorded()
    outcome = train(house.resolved(path, model, *words), heard, place)
    steps = [event for event in heard.events if isinstance(event, StepDone)]
    return [(one.step, one.epoch, one.samples, one.loss, one.gradient_norm) for one in steps], str(outcome.adapter)


def on(count, path, model, *words):
    """What the first of several processes heard, and the weights that they trained."""
    first, *others = processes.together(count, run, path, model, *words)
    assert not isinstance(first, str), first
    assert all(one == ([], first[1]) for one in others)
    return first[0], load_file(first[1])


def assert_alike(found, expected, *, exactly=False):
    """The same steps, losses and weights; float32 adds up differently on other numbers of processes."""
    (steps, weights), (wanted, trained) = found, expected
    tolerance = 0 if exactly else 2e-4
    assert [one[:3] for one in steps] == [one[:3] for one in wanted]
    for one, other in zip(steps, wanted, strict=True):
        assert one[3:] == pytest.approx(other[3:], rel=tolerance, abs=0)
    assert weights.keys() == trained.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, trained[name], rtol=tolerance, atol=tolerance)


def test_processes_together_train_what_one_with_as_much_accumulation_trains(tmp_path, model, data):
    alone = house.write_run(tmp_path / "alone", data, **OPTIONS, max_train_steps=4, gradient_accumulation_steps=4)
    shared = house.write_run(tmp_path / "shared", data, **OPTIONS, max_train_steps=4, gradient_accumulation_steps=2)
    steps, adapter = run(None, alone, model)
    assert_alike(on(2, shared, model), (steps, load_file(adapter)))


def gradients(place, path, model):
    """The gradients of one step of four batches in float64, around the tiny transformer."""
    count = place.processes if place else 1
    config = house.resolved(path, model, f"gradient_accumulation_steps={4 // count}")
    with joined(place) as group:
        runtime = Runtime.start("no", 7, group)
        prepared = prepare(config, runtime, Recorded())
        runtime = replace(runtime, compute=Compute(runtime.device, torch.float64))
        checkpoints = Checkpoints(path.parent / "output", 0)
        trainer = build_trainer(config, prepared, checkpoints, runtime, Recorded())
        denoiser = tiny.denoiser()
        denoiser.module.double()
        adapter = lora.attach(denoiser.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 2.0), torch.float64, seed=3)
        random = torch.Generator().manual_seed(5)
        parameters = lora.trainable(denoiser.module)
        for one in parameters.values():
            one.data = torch.randn(one.shape, dtype=torch.float64, generator=random) * 0.1
        learning = replace(trainer.learning, denoiser=denoiser, trained=AdapterFile(adapter))
        trainer = replace(trainer, denoiser=denoiser, learning=learning)
        for number in trainer.pace.share(0, 1, rank=group.place.rank, processes=count):
            trainer.accumulate(made_up(number))
        group.add_gradients(parameters.values())
    return {name: one.grad for name, one in parameters.items()}


def made_up(number):
    """Batch `number` in float64, of a size of its own."""
    random = torch.Generator().manual_seed(number)
    draw = {"dtype": torch.float64, "generator": random}
    size = 1 + number % 2
    return Batch(
        number=number,
        epoch=0,
        dataset="subject",
        regularise=number == 2,
        keys=("a.png",) * size,
        samples=tuple(range(size)),
        latents=torch.randn(size, 16, 8, 4 + 2 * number, **draw),
        noise=torch.randn(size, 16, 8, 4 + 2 * number, **draw),
        normal=torch.randn(size, generator=random),
        uniform=torch.rand(size, generator=random),
        conditioning={
            "prompt_embeds": torch.randn(size, tiny.TEXT, tiny.WIDTH, **draw),
            "pooled_prompt_embeds": torch.randn(size, tiny.WIDTH, **draw),
        },
    )


def test_gradients_of_several_processes_are_those_of_one_with_as_much_accumulation(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], lora_dropout=0)
    expected = gradients(None, path, model)
    assert all(one.abs().sum() > 0 for one in expected.values())
    for count in (2, 4):
        for found in processes.together(count, gradients, path, model):
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-14)


def written(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_the_first_process_writes(tmp_path, model, data):
    drawing = {"validation_disable": False, "validation_prompt": "a red circle", "validation_resolution": "64x64"}
    options = {**OPTIONS, **drawing, "max_train_steps": 2, "validation_num_inference_steps": 1}
    alone = house.write_run(tmp_path / "alone", data, **options, gradient_accumulation_steps=2)
    shared = house.write_run(tmp_path / "shared", data, **options)
    run(None, alone, model)
    on(2, shared, model)
    assert written(tmp_path / "shared" / "output") == written(tmp_path / "alone" / "output")
    told = [json.loads(line) for line in (tmp_path / "shared" / "output" / "progress.jsonl").read_text().splitlines()]
    assert [one["step"] for one in told if one["event"] == "StepDone"] == [1, 2]
    assert sum(one["event"] == "ImagesSaved" for one in told) == 1


def test_three_steps_and_three_more_are_six_steps_on_two_processes(tmp_path, model, data):
    whole = house.write_run(tmp_path / "whole", data, **OPTIONS)
    broken = house.write_run(tmp_path / "broken", data, **OPTIONS)
    expected, trained = on(2, whole, model)
    first, _ = on(2, broken, model, "max_train_steps=3")
    second, resumed = on(2, broken, model)
    assert_alike((first + second, resumed), (expected, trained), exactly=True)


def test_a_run_goes_on_with_one_and_then_four_processes_as_if_nothing_had_happened(tmp_path, model, data):
    """Two processes, one and four, with as many batches in each step."""
    whole = house.write_run(tmp_path / "whole", data, **OPTIONS, gradient_accumulation_steps=4)
    broken = house.write_run(tmp_path / "broken", data, **OPTIONS)
    steps, adapter = run(None, whole, model)
    parts = [
        on(count, broken, model, f"max_train_steps={until}", f"gradient_accumulation_steps={4 // count}")
        for count, until in ((2, 2), (1, 4), (4, 6))
    ]
    found = [one for steps, _ in parts for one in steps]
    assert_alike((found, parts[-1][1]), (steps, load_file(adapter)))


class Noting:
    """Batches that remember what was asked of them."""

    def __init__(self, batches):
        self.batches, self.noted = batches, []

    def ahead(self, numbers):
        for batch in self.batches.ahead(numbers):
            self.noted.append((batch.number, batch.dataset, batch.keys, batch.samples, batch.noise.sum().item()))
            yield batch


def noting(place, path, model, *words, batches=Noting):
    """Train, and say which batches this process used."""
    from simpletuner import keeping, plans

    config, heard = house.resolved(path, model, *words), Recorded()
    with joined(place) as group:
        checkpoints = keeping.checkpoints(config)
        resume_from = checkpoints.newest(pytest.fail)
        runtime = Runtime.start("no", 7, group)
        pace = plans.pace(config, runtime, resume_from)
        prepared = prepare(config, runtime, heard, pace)
        trainer = build_trainer(config, prepared, checkpoints, runtime, heard, pace)
        trainer = replace(trainer, batches=batches(trainer.batches))
        trainer.fit(resume_from)
    return trainer.batches.noted


def test_the_order_of_the_samples_is_the_same_on_two_then_one_then_four_processes(tmp_path, model, data):
    """Steps take other numbers of batches in each part; no batch is left out, and none is used twice."""
    whole = house.write_run(tmp_path / "whole", data, **OPTIONS)
    broken = house.write_run(tmp_path / "broken", data, **OPTIONS)
    expected = noting(None, whole, model, "max_train_steps=22")
    found, sizes = [], []
    for count, until in ((2, 3), (1, 7), (4, 10)):
        shares = processes.together(count, noting, broken, model, f"max_train_steps={until}")
        sizes.append([len(share) for share in shares])
        found += sorted(batch for share in shares for batch in share)
    assert sizes == [[3, 3], [4], [3, 3, 3, 3]]
    assert found == expected


def test_smaller_batches_go_on_in_the_order_that_larger_ones_began(tmp_path, model, data):
    """As after a run that did not fit: batches of four become two of two, and whole again when they fit again."""
    options = {"caption_dropout_probability": 0.3, "train_batch_size": 4}
    whole = house.write_run(tmp_path / "whole", data, **options)
    broken = house.write_run(tmp_path / "broken", data, **options)
    steps, adapter = run(None, whole, model)
    halves = ("train_batch_size=2", "gradient_accumulation_steps=2")
    first, _ = run(None, broken, model, "max_train_steps=2")
    second, _ = run(None, broken, model, "max_train_steps=4", *halves)
    third, resumed = run(None, broken, model, "max_train_steps=6")
    assert_alike((first + second + third, load_file(resumed)), (steps, load_file(adapter)))


def test_a_checkpoint_from_before_there_were_several_processes_goes_on_where_it_stood(tmp_path, model, data):
    whole = house.write_run(tmp_path / "whole", data, **OPTIONS)
    broken = house.write_run(tmp_path / "broken", data, **OPTIONS)
    expected = noting(None, whole, model, "max_train_steps=10")
    found = noting(None, broken, model, "max_train_steps=3", "gradient_accumulation_steps=2")
    saved = tmp_path / "broken" / "output" / "checkpoint-3"
    state = json.loads((saved / "training_state.json").read_text())
    assert (state.pop("pace"), state.pop("parts")) == ([[0, 2]], 1)
    Checkpoints(saved.parent, 0).save(3, lambda folder: _older(saved, folder, state))
    assert found + noting(None, broken, model, "max_train_steps=7") == expected


def _older(saved, folder, state):
    for name in ("optimizer.safetensors", "pytorch_lora_weights.safetensors"):
        (folder / name).write_bytes((saved / name).read_bytes())
    (folder / "training_state.json").write_text(json.dumps(state))
    (folder / "simpletuner_config.json").write_text('{"gradient_accumulation_steps": 2}')


def test_an_image_that_one_process_cannot_read_is_left_out_by_all(tmp_path, model, pictures):
    folder = house.draw_pictures(tmp_path / "pictures", 9)
    whole = (folder / "004.png").read_bytes()
    (folder / "004.png").write_bytes(whole[: len(whole) // 2])
    path = house.write_run(tmp_path / "run", [house.data_set("a", folder)], **OPTIONS)
    used = [share for share in processes.together(3, noting, path, model, "max_train_steps=4")]
    assert {key for share in used for _, _, keys, _, _ in share for key in keys} == {
        f"{number:03}.png" for number in range(9) if number != 4
    }


class Damaged(Noting):
    """Batches of which one has become useless."""

    def ahead(self, numbers):
        for batch in super().ahead(numbers):
            yield replace(batch, latents=batch.latents * float("nan")) if batch.number == 5 else batch


def damaged(place, path, model):
    noting(place, path, model, batches=Damaged)


def test_a_batch_that_fails_in_one_process_ends_all_of_them_with_its_name(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, **OPTIONS)
    first, second = processes.together(2, damaged, path, model)
    assert first.startswith("TrainingError: the loss of step 3 is not a finite number; the images were")
    assert second == "Elsewhere: " + first.removeprefix("TrainingError: ")


# The launcher: real processes, as users start them.


@pytest.fixture
def long_run(tmp_path, model, pictures):
    """A run of more steps than any test waits for."""
    return house.write_run(
        tmp_path / "run",
        [house.data_set("a", pictures)],
        pretrained_model_name_or_path=str(model),
        max_train_steps=100_000,
        num_processes=2,
        checkpoint_step_interval=0,
    )


def started(path, *words, command=COMMAND):
    return subprocess.Popen(
        [*command, "-c", str(path), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def workers_of(launcher):
    found = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(one) for one in found]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(is_so, seconds=60):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def trains(folder):
    progress = folder / "progress.jsonl"
    return lambda: progress.exists() and '"StepDone"' in progress.read_text()


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_with_a_message(tmp_path, long_run):
    launcher = started(long_run)
    until(trains(tmp_path / "run" / "output"))
    workers = workers_of(launcher)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert "error: process 1 was killed (SIGKILL), so the run ends." in said
    assert "Traceback" not in said
    assert not any(map(is_alive, workers))


@pytest.mark.slow
def test_a_signal_to_the_launcher_ends_all_processes_with_one_checkpoint(tmp_path, long_run):
    launcher = started(long_run)
    until(trains(tmp_path / "run" / "output"))
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGTERM
    assert said.count("stopped after step") == 1 and "Traceback" not in said
    assert len(list((tmp_path / "run" / "output").glob("checkpoint-*"))) == 1


@pytest.mark.slow
def test_processes_whose_launcher_is_gone_end_with_a_checkpoint(tmp_path, long_run):
    launcher = started(long_run)
    until(trains(tmp_path / "run" / "output"))
    workers = workers_of(launcher)
    launcher.kill()
    launcher.communicate(timeout=60)
    until(lambda: not any(map(is_alive, workers)))
    assert len(list((tmp_path / "run" / "output").glob("checkpoint-*"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(bool(os.environ.get("CI")), reason="the launchers of others differ in nothing that changes often")
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_other_launchers_can_start_a_run(tmp_path, long_run, launcher):
    port = str(processes.free_port())
    command = {
        "torchrun": ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", port],
        "accelerate": [
            *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
            *("--main_process_port", port, "--mixed_precision", "no", "--dynamo_backend", "no"),
        ],
    }[launcher]
    ran = started(long_run, "max_train_steps=2", command=[sys.executable, "-m", *command, "-m", "simpletuner", "train"])
    said, _ = ran.communicate(timeout=90)
    assert ran.returncode == 0
    state = json.loads((tmp_path / "run" / "output" / "checkpoint-2" / "training_state.json").read_text())
    assert state["pace"] == [[0, 2]]
    assert said.count("output: ") == 1


@pytest.mark.slow
def test_two_machines_train_together(tmp_path, long_run, model):
    """Each has its own disk: what the first one caches, the second one does not see."""
    together = ("num_processes=2", "num_machines=2", "main_process_ip=127.0.0.2", "max_train_steps=2")
    port = f"main_process_port={processes.free_port()}"
    own = (f"output_dir={tmp_path / 'second' / 'output'}", f"cache_dir={tmp_path / 'second' / 'cache'}")
    first = started(long_run, *together, port)
    second = started(long_run, *together, port, "machine_rank=1", *own)
    for one in (first, second):
        _, said = one.communicate(timeout=90)
        assert one.returncode == 0, said
    assert (tmp_path / "run" / "output" / "checkpoint-2").is_dir()
    assert not (tmp_path / "second" / "output").exists()
