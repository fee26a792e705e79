"""The wizard on a real terminal: a pseudo-terminal with a person who types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest
import tiny
from models.flux.single_files import bfl_transformer, written
from PIL import Image

ENTER = "\r"
CLEAR = "\x15"
DOWN = "\x1b[B"
UP = "\x1b[A"
CONTROL_C = "\x03"
FILES = ("config.json", "multidatabackend.json", "user_prompt_library.json")

QUESTIONS = [
    "Folder with your pictures",
    "What describes",
    "Trigger word",
    "Model to start from",
    "Memory of the graphics card",
    "Training steps",
    "Prompt 1",
    "Prompt 2",
    "Prompt 3",
    "Name of the LoRA",
    "Output folder",
    "Publish the result",
    "Write these files",
]


@pytest.fixture
def working(tmp_path: Path) -> Path:
    """A folder with two pictures in it."""
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def surroundings(root: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIMPLETUNER_")}
    return {**kept, "PYTHONPATH": str(root), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "100"}


def start(root: Path, working: Path, *words: str) -> Any:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "simpletuner", "configure", *words],
        cwd=str(working),
        env=surroundings(root),
        encoding="utf-8",
        timeout=90,
        dimensions=(50, 100),
    )
    child.delaybeforesend = None  # the question is on the screen only when it takes keys
    return child


def ended(child: Any) -> int:
    child.expect(pexpect.EOF)
    child.close()
    status: int = child.exitstatus
    return status


def answer(child: Any, answers: dict[str, str], questions: list[str] = QUESTIONS) -> None:
    for question in questions:
        child.expect_exact(question)
        child.send(answers.get(question, "") + ENTER)


def check(root: Path, working: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simpletuner", "check", "--offline"],
        cwd=working,
        env=surroundings(root),
        capture_output=True,
        text=True,
        check=False,
    )


def read(working: Path, name: str) -> Any:
    return json.loads((working / "config" / name).read_text(encoding="utf-8"))


def test_a_new_config_passes_the_check(root: Path, working: Path) -> None:
    child = start(root, working)
    answer(child, {"Folder with your pictures": "pictures", "Trigger word": "zorb", "Training steps": CLEAR + "70"})
    child.expect_exact("next: simpletuner check, then ./train.sh")
    assert ended(child) == 0
    checked = check(root, working)
    assert checked.returncode == 0, checked.stderr
    assert read(working, "config.json")["max_train_steps"] == 70
    assert read(working, "multidatabackend.json")[0]["instance_prompt"] == "zorb"
    assert list(read(working, "user_prompt_library.json").values())[0] == "a photo of zorb"


def test_caption_files_beside_the_pictures_are_offered_first(root: Path, working: Path) -> None:
    (working / "pictures" / "0.txt").write_text("a lonely zorb")
    child = start(root, working, "config/mine")
    child.expect_exact("Folder with your pictures")
    child.send("pictures" + ENTER)
    child.expect_exact("2 pictures, 1 with a caption file")
    answer(child, {}, ["What describes", "Model to start from", "Memory", "Training steps", "Prompt 1", "Prompt 2"])
    answer(child, {}, ["Name of the LoRA", "Output folder"])
    child.expect_exact("Publish the result")
    child.send("y")
    child.expect_exact("Repository, private")
    child.send(CLEAR + "me/zorb" + ENTER)
    answer(child, {}, ["Write these files"])
    child.expect_exact("simpletuner check --config config/mine")
    assert ended(child) == 0
    assert read(working, "mine/multidatabackend.json")[0]["caption_strategy"] == "textfile"
    assert read(working, "mine/user_prompt_library.json") == {"a-lonely-zorb": "a lonely zorb"}
    assert read(working, "mine/config.json")["hub_model_id"] == "me/zorb"


def test_an_existing_config_keeps_what_is_not_asked(root: Path, working: Path) -> None:
    config = {
        "--lora_rank": 99,
        "--max_train_steps": 500,
        "--data_backend_config": "config/multidatabackend.json",
        "--lr_scheduler": "cosine",
        "--model_flavour": "dev",
        "--output_dir": "out",
        "--tracker_run_name": "old",
        "--base_model_precision": "nf4-bnb",
    }
    mine = {"id": "mine", "instance_data_dir": "pictures", "caption_strategy": "instanceprompt", "instance_prompt": "z"}
    data = [{**mine, "repeats": 3}, {"id": "more", "instance_data_dir": "pictures", "resolution": 768}]
    (working / "config").mkdir()
    (working / "config" / "config.json").write_text(json.dumps(config))
    (working / "config" / "multidatabackend.json").write_text(json.dumps(data))
    child = start(root, working)
    answer(child, {"Training steps": CLEAR + "600"})
    assert ended(child) == 0
    made = read(working, "config.json")
    expected = {**config, "--max_train_steps": 600, "--user_prompt_library": "config/user_prompt_library.json"}
    assert made == expected
    assert list(made) == list(expected)
    assert read(working, "multidatabackend.json") == data
    assert check(root, working).returncode == 0


@pytest.mark.parametrize("number", [0, 2, 8, 12])
def test_leaving_at_any_question_changes_nothing(root: Path, working: Path, number: int) -> None:
    child = start(root, working)
    answer(child, {"Folder with your pictures": "pictures", "Trigger word": "zorb"}, QUESTIONS[:number])
    child.expect_exact(QUESTIONS[number])
    child.send(CONTROL_C)
    child.expect_exact("interrupted; nothing was written")
    assert ended(child) == 130
    assert not (working / "config").exists()


def test_a_folder_that_is_not_there_is_asked_for_again(root: Path, working: Path) -> None:
    child = start(root, working)
    child.expect_exact("Folder with your pictures")
    child.send("nowhere" + ENTER)
    child.expect_exact("There is no folder nowhere")
    child.send(CLEAR + "pictures" + ENTER)
    child.expect_exact("2 pictures, no caption files")
    child.send(CONTROL_C)
    assert ended(child) == 130


def test_a_single_file_is_taken_as_the_model_and_the_hub_gives_the_rest(root: Path, working: Path) -> None:
    written(working / "my-flux.safetensors", bfl_transformer(tiny.flux().state_dict()))
    child = start(root, working)
    answer(child, {"Folder with your pictures": "pictures", "Trigger word": "zorb"}, QUESTIONS[:3])
    child.expect_exact("Model to start from")
    child.send(UP + ENTER)
    child.expect_exact("Folder, .safetensors file or id")
    child.send("your-flux.safetensors" + ENTER)
    child.expect_exact("There is no file 'your-flux.safetensors'")
    child.send(CLEAR + "my-flux.safetensors" + ENTER)
    answer(child, {}, ["The file does not hold the whole model", "Made from", *QUESTIONS[4:]])
    assert ended(child) == 0
    made = read(working, "config.json")
    assert (made["pretrained_model_name_or_path"], made["model_flavour"]) == ("my-flux.safetensors", "dev")
    checked = check(root, working)
    assert checked.returncode == 0, checked.stderr


def test_answers_can_be_changed_before_anything_is_written(root: Path, working: Path) -> None:
    child = start(root, working)
    answer(child, {"Folder with your pictures": "pictures", "Trigger word": "zorb"}, QUESTIONS[:-1])
    child.expect_exact("Write these files")
    child.send(DOWN + ENTER)
    answer(child, {"Training steps": CLEAR + "30"}, QUESTIONS[:-1])
    child.expect_exact("30 steps")
    child.expect_exact("Write these files")
    child.send(DOWN + DOWN + ENTER)
    child.expect_exact("nothing was written")
    assert ended(child) == 0
    assert not (working / "config").exists()


def test_a_config_that_would_not_pass_is_not_written(root: Path, working: Path) -> None:
    (working / "config").mkdir()
    before = json.dumps({"lora_rnk": 3, "max_train_steps": 5})
    (working / "config" / "config.json").write_text(before)
    child = start(root, working)
    answer(child, {"Folder with your pictures": "pictures", "Trigger word": "zorb"}, QUESTIONS[:-1])
    child.expect_exact("did you mean 'lora_rank'")
    child.expect_exact("And now?")
    child.send(DOWN + ENTER)
    child.expect_exact("nothing was written")
    assert ended(child) == 0
    assert (working / "config" / "config.json").read_text() == before


def test_without_a_terminal_it_says_what_to_do_instead(root: Path, working: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simpletuner", "configure"],
        cwd=working,
        env=surroundings(root),
        input="pictures\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "config/config.json.example" in done.stderr
