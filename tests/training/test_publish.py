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
    assert "- sampler: `euler`\n- seed: `" in card and "`None`" not in card and "``\n-" not in card
    assert header["library_name"] == "diffusers" and header["instance_prompt"] == "zorb"
    assert header["widget"][0]["text"] == "a red circle on a white background"
    assert header["widget"][0]["output"]["url"] in files
    assert "Made for a test." in card and 'load_lora_weights("tester/zorb", weight_name=' in card


def test_nothing_that_is_uploaded_names_a_folder_of_this_machine_or_a_token(path, model, small_hub):
    train(path, model, small_hub)
    for name, data in small_hub.files["tester/zorb"].items():
        assert hub.TOKEN.encode() not in data, name
        if name.endswith((".md", ".json")):
            assert str(path.parent).encode() not in data, name
            assert str(model).encode() not in data, name


def push(path, server, *words, **environment):
    command = [sys.executable, "-m", "simpletuner", "push", str(path.parent / "output"), *words]
    variables = {**os.environ, **server.environment(), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("status", [401, 403])
def test_what_a_hub_refuses_waits_and_is_sent_by_one_command(path, model, small_hub, status):
    small_hub.fail_with = status
    done = train(path, model, small_hub)
    output = path.parent / "output"
    assert done.returncode == 0, done.stderr
    assert "'tester/zorb' could not be uploaded" in done.stdout
    assert f"simpletuner push {output}" in " ".join(done.stdout.split()).replace("- ", "-")
    again = push(path, small_hub)
    assert again.returncode == 1 and "'tester/zorb' could not be uploaded" in again.stderr
    small_hub.fail_with = None
    assert push(path, small_hub).returncode == 0
    files = small_hub.files["tester/zorb"]
    assert files["pytorch_lora_weights.safetensors"] == (output / "pytorch_lora_weights.safetensors").read_bytes()
    assert not list((output / "outbox").iterdir())


def test_checkpoints_are_uploaded_while_training_goes_on_to_a_branch(path, model, small_hub):
    words = ["push_checkpoints_to_hub=true", "checkpoint_step_interval=1", "max_train_steps=3", "hub_branch=test"]
    done = train(path, model, small_hub, *words, "checkpoints_total_limit=1")
    assert done.returncode == 0, done.stderr
    assert ("tester/zorb", "test") in small_hub.branches
    messages = ["Step 1", "Step 2", "Step 3", "Trained for 3 steps"]
    assert small_hub.commits == [("tester/zorb", "test", message) for message in messages]
    files = small_hub.files["tester/zorb"]
    weights = [files[f"checkpoint-{step}/pytorch_lora_weights.safetensors"] for step in (1, 2, 3)]
    assert len(set(weights)) == 3
    assert not any("optimizer" in name or "training_state" in name for name in files)


def test_a_command_runs_for_every_upload_that_arrived_and_its_failure_ends_nothing(path, model, small_hub):
    (path.parent / "told.py").write_text("import sys; print(sys.argv[1:]); sys.exit(3)")
    facts = "{global_step} {local_checkpoint_path} {remote_checkpoint_path} {huggingface_path}"
    command = f"{sys.executable} {path.parent / 'told.py'} {facts}"
    words = [f"post_upload_script={command}", "push_checkpoints_to_hub=true", "validation_disable=true"]
    log = path.parent / "output" / "post_upload_script.log"
    small_hub.fail_with = 403
    assert train(path, model, small_hub, *words).returncode == 0
    assert not log.exists()
    small_hub.fail_with = None
    done = train(path, model, small_hub, *words, "max_train_steps=2")
    assert done.returncode == 0, done.stderr
    output, address = str(path.parent / "output"), f"{small_hub.address}/tester/zorb"
    folders = [(1, f"{output}/checkpoint-1"), (1, output), (2, f"{output}/checkpoint-2"), (2, output)]
    assert sorted(log.read_text().splitlines()) == sorted(
        str([str(step), folder, address, "tester/zorb"]) for step, folder in folders
    )
    assert done.stdout.count("post_upload_script ended with exit code 3") == 4


def test_a_later_run_sends_what_an_earlier_one_could_not(path, model, small_hub):
    small_hub.fail_with = 401
    train(path, model, small_hub)
    small_hub.fail_with = None
    done = train(path, model, small_hub, "max_train_steps=2")
    assert done.returncode == 0, done.stderr
    assert [message for *_, message in small_hub.commits] == ["Trained for 1 steps", "Trained for 2 steps"]


def test_without_a_token_one_note_says_so_before_the_first_step_and_in_check(path, model, small_hub, tmp_path):
    nobody = {"HF_TOKEN": "", "HF_HOME": str(tmp_path / "nobody")}
    done = train(path, model, small_hub, **nobody)
    assert done.returncode == 0, done.stderr
    said = "note: push_to_hub: there is no token for the Hub"
    assert done.stdout.count(said) == 1 and done.stdout.index(said) < done.stdout.index("training:")
    assert list((path.parent / "output" / "outbox").iterdir())
    command = [sys.executable, "-m", "simpletuner", "check", "--offline", "--config", str(path)]
    variables = {**os.environ, **small_hub.environment(), "MODEL": str(model), **nobody}
    checked = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=100)
    assert checked.stdout.count(said) == 1


def test_a_result_can_be_pushed_to_another_name_which_its_card_then_bears(path, model, small_hub):
    train(path, model, small_hub, "push_to_hub=false")
    done = push(path, small_hub, "--to", "tester/other", "--public")
    assert done.returncode == 0, done.stderr
    files = small_hub.files["tester/other"]
    assert 'load_lora_weights("tester/other"' in files["README.md"].decode()
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["widget"][0]["output"]["url"] in files
    assert not small_hub.private["tester/other"]
