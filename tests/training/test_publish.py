"""Publishing over real HTTP with the real client: what arrives, and what happens when the Hub does not want it."""

import os
import subprocess
import sys

import house
import pytest
import yaml
from servers import hub


@pytest.fixture
def small_hub():
    with hub.running() as server:
        yield server


def train(path, model, server, *words, **environment):
    command = [sys.executable, "-m", "simpletuner", "train", "--config", str(path), *words]
    variables = {**os.environ, **server.environment(), "MODEL": str(model), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


@pytest.fixture
def path(tmp_path, pictures):
    options = {
        "push_to_hub": True,
        "hub_model_id": "tester/zorb",
        "max_train_steps": 1,
        "validation_disable": False,
        "validation_prompt": "a red circle on a white background",
        "validation_resolution": "64x64",
        "validation_num_inference_steps": 1,
        "validation_disable_unconditional": True,
        "model_card_note": "Made for a test.",
        "tracker_run_name": "zorb",
    }
    data = house.data_set("subject", pictures, instance_prompt="zorb")
    return house.write_run(tmp_path / "run", [data], **options)


def test_adapter_card_and_pictures_arrive_in_a_private_repository(path, model, small_hub):
    done = train(path, model, small_hub)
    assert done.returncode == 0, done.stderr
    files = small_hub.files["tester/zorb"]
    output = path.parent / "output"
    assert files["pytorch_lora_weights.safetensors"] == (output / "pytorch_lora_weights.safetensors").read_bytes()
    assert files["before_and_after.png"] == (output / "before_and_after.png").read_bytes()
    assert small_hub.private["tester/zorb"]
    assert "published:" in done.stdout
    card = files["README.md"].decode()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "diffusers" and header["instance_prompt"] == "zorb"
    assert header["widget"][0]["text"] == "a red circle on a white background"
    assert header["widget"][0]["output"]["url"] in files
    assert "Made for a test." in card and 'load_lora_weights("tester/zorb")' in card


def test_nothing_that_is_uploaded_names_a_folder_of_this_machine_or_a_token(path, model, small_hub):
    train(path, model, small_hub)
    for name, data in small_hub.files["tester/zorb"].items():
        assert hub.TOKEN.encode() not in data, name
        if name.endswith((".md", ".json")):
            assert str(path.parent).encode() not in data, name
            assert str(model).encode() not in data, name


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_hub_that_refuses_does_not_fail_the_run_and_says_how_to_go_on(path, model, small_hub, status):
    small_hub.fail_with = status
    done = train(path, model, small_hub)
    assert done.returncode == 0, done.stderr
    assert "'tester/zorb' could not be uploaded" in done.stdout
    assert "hf upload tester/zorb" in done.stdout
    assert (path.parent / "output" / "pytorch_lora_weights.safetensors").is_file()


def test_a_hub_that_is_not_there_does_not_fail_the_run(path, model, small_hub):
    done = train(path, model, small_hub, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "'tester/zorb' could not be uploaded" in done.stdout
