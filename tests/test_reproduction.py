"""What a run leaves behind says what it was made with, and is enough to make it again."""

import json
import os
import subprocess
import sys

import house
import pytest

from simpletuner import manifest
from simpletuner.config import read
from simpletuner.errors import ConfigError
from simpletuner.reproduction import CONFIG, DATA, repetition

OPTIONS = {"max_train_steps": 3, "caption_dropout_probability": 0.3, "seed": 0, "checkpoint_step_interval": 2}


@pytest.fixture
def data(pictures):
    return [house.data_set("subject", pictures, repeats=1)]


def made_again(tmp_path, output):
    again = repetition(output, tmp_path / "again")
    return again, read(again.config, environment={}, folder=tmp_path).config


def test_a_run_leaves_what_it_was_made_with(tmp_path, model, data):
    outcome, _ = house.run(house.write_run(tmp_path, data, **OPTIONS), model)
    found = json.loads((outcome.folder / manifest.NAME).read_text())
    state = json.loads((outcome.folder / "checkpoint-3" / "training_state.json").read_text())
    assert found["seed"] == state["seed"] > 0
    assert found["packages"]["torch"] == __import__("importlib.metadata").metadata.version("torch")
    assert found["data"]["subject"]["fingerprint"] == state["data"]["subject"]["fingerprint"]
    assert (found["data"]["subject"]["images"], found["device"], found["processes"]) == (10, "cpu", 1)
    assert found["result"] == manifest.digest(outcome.adapter)


def test_the_digest_is_that_of_the_weights_whatever_the_header_says(tmp_path, model, data):
    from safetensors.torch import load_file, save_file

    outcome, _ = house.run(house.write_run(tmp_path, data, **OPTIONS), model)
    weights, copy = load_file(outcome.adapter), tmp_path / outcome.adapter.name
    save_file(weights, copy, metadata={"something": "else"})
    assert manifest.digest(copy) == manifest.digest(outcome.adapter)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] += 1
    save_file(weights, copy)
    assert manifest.digest(copy) != manifest.digest(outcome.adapter)


def test_the_config_of_a_run_that_is_made_again_is_the_same_but_for_its_places(tmp_path, model, data):
    path = house.write_run(
        tmp_path,
        data,
        **OPTIONS,
        tread_config={"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": -2}]},
        optimizer_config={"weight_decay": 0.5},
        push_to_hub=False,
        rank_pattern={"attn.to_q": 2},
        post_checkpoint_script="true",
    )
    before = house.resolved(path, model)
    outcome, _ = house.run(path, model)
    again, config = made_again(tmp_path, outcome.folder)
    own = {"output_dir", "data_backend_config", "seed", "resume_from_checkpoint", "post_checkpoint_script"}
    then, now = json.loads(before.dump()), json.loads(config.dump())
    assert {key for key in then if then[key] != now[key]} == own
    assert config.run.seed == again.before.seed == manifest.read(outcome.folder).seed
    assert config.data == before.data


def test_a_run_whose_secrets_are_not_kept_says_which(tmp_path, model, data):
    outcome, _ = house.run(house.write_run(tmp_path, data, **OPTIONS), model)
    path = outcome.folder / "simpletuner_config.json"
    whole = json.loads(path.read_text())
    whole["data_backends"][0]["aws_secret_access_key"] = "**********"
    path.write_text(json.dumps(whole))
    again = repetition(outcome.folder, tmp_path / "again")
    assert again.secrets == ("data_backends › subject › aws_secret_access_key",)
    assert "***" not in (tmp_path / "again" / DATA).read_text() + (tmp_path / "again" / CONFIG).read_text()


def test_what_differs_is_told_in_words(tmp_path, model, data):
    outcome, _ = house.run(house.write_run(tmp_path, data, **OPTIONS), model)
    one = manifest.read(outcome.folder)
    other = manifest.Made(**{**one.__dict__, "python": "2.7", "packages": {**one.packages, "torch": "0.1"}})
    torch = one.packages["torch"]
    assert one.differences(one) == []
    assert one.differences(other) == [f"python was {one.python}, is 2.7", f"torch was {torch}, is 0.1"]


def test_what_is_no_run_and_what_is_in_use_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"run_manifest.json: cannot be read .* give the output folder of a run"):
        repetition(tmp_path, tmp_path / "again")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="--output: is not empty; choose another folder"):
        repetition(tmp_path, tmp_path / "full")


@pytest.mark.slow
def test_a_run_is_made_again_bit_for_bit_and_a_change_is_seen(tmp_path, model, pictures):
    images = house.draw_pictures(tmp_path / "images", 6)
    options = {**OPTIONS, "caption_dropout_probability": 0}  # every caption is used, so that its change must be seen
    outcome, _ = house.run(house.write_run(tmp_path, [house.data_set("subject", images)], **options), model)
    same = repeated(outcome.folder, tmp_path / "same")
    assert same.stdout.splitlines()[-1] == "the result is the same, bit for bit" and same.returncode == 0
    assert manifest.read(tmp_path / "same").result == manifest.digest(outcome.adapter)
    (images / "000.txt").write_text("something else")
    other = repeated(outcome.folder, tmp_path / "other")
    assert other.stdout.splitlines()[-1] == "the result is another one" and other.returncode == 1
    assert any(line.startswith("data set 'subject' was {") for line in other.stdout.splitlines())


def repeated(folder, output):
    command = [sys.executable, "-m", "simpletuner", "repro", str(folder), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False, timeout=90)
