"""What `check` and `train` say of a repository on the Hub, over real HTTP."""

import json
import os
import subprocess
import sys

import pytest
from servers import hub

CODE = """
import sys
from simpletuner.hub import findings

found = [one.said for _, one in findings({"base": (sys.argv[1], sys.argv[2] or None)})]
print(found[0] if found else None)
"""


def said(server, repository, revision="", **environment):
    """The answer of a fresh process, because the client reads the Hub's address when it is imported."""
    variables = {**os.environ, **server.environment(), "HF_HOME": "/nowhere", **environment}
    command = [sys.executable, "-c", CODE, repository, revision]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def small_hub():
    with hub.running() as server:
        server.models = {"you/open": {"gated": False}, "you/gated": {"gated": "manual"}}
        yield server


def test_an_open_repository_is_not_worth_a_word(small_hub):
    assert said(small_hub, "you/open") == "None"


def test_a_gated_repository_without_a_token_is_told_apart_from_one_with(small_hub):
    assert said(small_hub, "you/gated", HF_TOKEN="").startswith("you/gated is gated: accept its licence")
    small_hub.accepted = {"you/gated"}
    assert said(small_hub, "you/gated") == "None"


def test_a_token_whose_owner_has_not_accepted_the_licence_is_told_so(small_hub):
    assert "your token may not read it: accept its licence" in said(small_hub, "you/gated")


def test_a_repository_that_is_not_there_is_named(small_hub):
    assert said(small_hub, "you/nothing").startswith("you/nothing is not on the Hub, or not open to you")


def test_a_revision_that_is_not_there_is_named(small_hub):
    assert said(small_hub, "you/open", "v9") == "you/open has no revision 'v9' on the Hub"


def test_a_hub_that_is_not_there_is_no_traceback(small_hub):
    answer = said(small_hub, "you/open", HF_ENDPOINT="http://127.0.0.1:9")
    assert answer.startswith("you/open could not be looked up on the Hub: ")


def train(server, folder, home, *words, **environment):
    """`train` in a folder with pictures that cannot be read: whoever looks at the data says so."""
    return called("train", server, folder, home, *words, **environment)


def called(name, server, folder, home, *words, **environment):
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "one.png").write_text("not a picture")
    (folder / "data.json").write_text(json.dumps([{"id": "subject", "instance_data_dir": "pictures"}]))
    (folder / "config.json").write_text(json.dumps({"data_backend_config": "data.json", "validation_disable": True}))
    variables = {**os.environ, **server.environment(), "HF_HOME": str(home), **environment}
    command = [sys.executable, "-m", "simpletuner", name, "--config", "config.json", *words]
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("pretrained_model_name_or_path", "pretrained_model_name_or_path=you/gated"),
        ("pretrained_vae_model_name_or_path", "pretrained_vae_model_name_or_path=you/gated"),
        ("assistant_lora_path", "assistant_lora_path=you/gated"),
    ],
)
def test_training_on_a_gated_repository_without_a_token_ends_before_any_work(small_hub, tmp_path, option, word):
    small_hub.models |= {"you/open": {"gated": False}}
    base = [] if option == "pretrained_model_name_or_path" else ["pretrained_model_name_or_path=you/open"]
    done = train(small_hub, tmp_path, tmp_path / "home", *base, word, HF_TOKEN="")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "the config has 1 problem:",
        f"  {option}: you/gated is gated: accept its licence on its page on the Hub, and set HF_TOKEN",
    ]
    assert not (tmp_path / "cache").exists()


def test_a_check_refuses_a_gated_repository_and_notes_a_hub_that_does_not_answer(small_hub, tmp_path):
    word = "pretrained_model_name_or_path=you/gated"
    done = called("check", small_hub, tmp_path, tmp_path / "home", word, HF_TOKEN="")
    assert done.returncode == 2 and "pretrained_model_name_or_path: you/gated is gated: accept" in done.stderr
    away = called("check", small_hub, tmp_path, tmp_path / "home", word, HF_ENDPOINT="http://127.0.0.1:9")
    assert away.returncode == 0 and "note: you/gated could not be looked up on the Hub" in away.stdout


def test_what_no_cache_stands_for_must_be_on_a_machine_that_may_not_ask_the_hub(small_hub, tmp_path):
    words = ("pretrained_model_name_or_path=you/open", "assistant_lora_path=you/helper")
    done = train(small_hub, tmp_path, tmp_path / "home", *words, HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "assistant_lora_path: you/helper could not be looked up" in done.stderr
    assert "offline mode" in done.stderr and "pretrained_model_name_or_path: " not in done.stderr


def downloaded(home, name):
    """A file of the gated repository as it lies on the disk after its download."""
    commit, place = "a" * 40, home / "hub" / "models--you--gated"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "snapshots" / commit).mkdir(parents=True)
    (place / "snapshots" / commit / name).write_text("{}")


def test_a_gated_repository_of_which_only_what_all_may_read_was_downloaded_is_asked_for(small_hub, tmp_path):
    downloaded(tmp_path / "home", "README.md")
    done = train(small_hub, tmp_path, tmp_path / "home", "pretrained_model_name_or_path=you/gated", HF_TOKEN="")
    assert "you/gated is gated" in done.stderr


def test_a_repository_that_was_downloaded_before_is_not_asked_for(small_hub, tmp_path):
    downloaded(tmp_path / "home", "model.safetensors")
    done = train(small_hub, tmp_path, tmp_path / "home", "pretrained_model_name_or_path=you/gated", HF_TOKEN="")
    assert "is gated" not in done.stdout + done.stderr
    assert "all 1 are not readable as an image" in done.stderr
