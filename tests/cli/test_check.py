"""``simpletuner check`` as a user meets it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import hub_data

from simpletuner.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a config that is valid."""
    (tmp_path / "pictures").mkdir()
    write(tmp_path, "config/multidatabackend.json", [{"id": "subject", "instance_data_dir": "pictures", "repeats": 9}])
    write(tmp_path, "config/config.json", {"data_backend_config": "config/multidatabackend.json", "lora_rank": 8})
    return tmp_path


def write(folder: Path, name: str, content: object) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@dataclass(frozen=True)
class Done:
    """What a command said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def simpletuner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; an exception that gets out of it fails the test."""

    def run(folder: Path, *words: str, **environment: str) -> Done:
        with monkeypatch.context() as patch:
            for name in ("ENV", "CONFIG_PATH", "SIMPLETUNER_ENV", "SIMPLETUNER_ENVIRONMENT"):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["simpletuner", *words])
            code = _code()
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def _code() -> int:
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_a_valid_config_is_shown_as_the_run_it_makes(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, "check", "--offline", "model_flavour=dev", "--max_train_steps", "100")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "note: black-forest-labs/FLUX.1-dev was not looked at: --offline",
        f"{folder}/config/config.json is valid.",
        "",
        "Which model is trained, and where its weights come from.",
        "  model_flavour                      dev",
        "",
        "The adapter that is trained.",
        "  lora_rank                          8",
        "",
        "Where a run lives, and how it begins.",
        "  data_backend_config                config/multidatabackend.json",
        "",
        "How long a run is, and how many images make a step.",
        "  max_train_steps                    100",
        "",
        "Data sets",
        "  subject                            image, local, repeats 9",
        "  text-embeds                        text_embeds, local",
    ]


def test_weights_on_this_machine_need_no_network(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, "check", "--offline", "pretrained_model_name_or_path={env:SIMPLETUNER_DEMO_MODEL}")
    assert done.returncode == 0
    assert "not looked at" not in done.stdout


def test_columns_of_a_data_set_on_the_hub_are_looked_at_unless_no_network_is_wanted(folder: Path) -> None:
    features = [{"name": "photo", "dtype": "image"}, {"name": "text", "dtype": "string"}]
    page = f"---\n{json.dumps({'dataset_info': {'features': features}})}\n---\n"
    mine = {"id": "mine", "type": "huggingface", "dataset_name": "me/rows", "image_column": "image"}
    write(folder, "config/multidatabackend.json", [mine])
    command = [
        sys.executable,
        "-m",
        "simpletuner",
        "check",
        "pretrained_model_name_or_path={env:SIMPLETUNER_DEMO_MODEL}",
    ]
    with hub_data.running({"me/rows": {"README.md": page.encode()}}) as hub:
        known = {**os.environ, **hub.environment(str(folder / "home"))}
        looked, offline = (
            subprocess.run([*command, *words], cwd=folder, env=known, capture_output=True, text=True, check=False)
            for words in ([], ["--offline"])
        )
    assert looked.returncode == 2
    assert "data set 'mine' › dataset_name: me/rows (train) has no column 'image' for image_column" in looked.stderr
    assert (offline.returncode, offline.stdout.splitlines()[0]) == (0, "note: me/rows was not looked at: --offline")


def test_every_problem_is_listed_and_the_exit_code_is_2(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, "check", "--offline", "lora_rnk=8", "lora_rank=0", "init_lora_step=5")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{folder}/config/config.json has 3 problems:",
        "  lora_rnk: there is no option of this name; did you mean 'lora_rank'? see documentation/OPTIONS.md",
        "  lora_rank: must be at least 1, got '0'",
        "  init_lora_step: 5 is not served yet; leave it out: steps are counted from 0",
    ]


def test_settings_that_only_the_optimizer_knows_are_looked_at_too(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, "check", "--offline", "optimizer=adamw", "optimizer_config=momentum=0.9")
    assert done.returncode == 2 and "optimizer_config: there is no momentum; the settings are betas, eps" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "line 1, column 2: expecting property name enclosed in double quotes"),
        ("[]", "(whole file): must be an object of options, {...}"),
        ("{}", "data_backend_config: is required"),
        ('{"data_backend_config": "nowhere.json"}', "data_backend_config: 'nowhere.json' exists neither in"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_without_a_traceback(
    simpletuner: Run, folder: Path, content: str, said: str
) -> None:
    (folder / "config" / "config.json").write_text(content)
    done = simpletuner(folder, "check", "--offline")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_missing_config_is_told_with_a_way_on(simpletuner: Run, tmp_path: Path) -> None:
    done = simpletuner(tmp_path, "check", "--offline")
    assert done.returncode == 2
    assert "no config file was found; make one with `simpletuner configure`" in done.stderr


def test_two_choices_of_a_config_are_refused(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, "check", "--config", "config/config.json", "--env", "mine")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--config: cannot be used together with --env" in done.stderr


def test_an_environment_is_chosen_by_option_word_or_variable(simpletuner: Run, folder: Path) -> None:
    write(folder, "config/mine/config.json", {"data_backend_config": "config/multidatabackend.json", "seed": 5})
    for words, environment in ((["--env", "mine"], {}), (["env=mine"], {}), ([], {"ENV": "mine"})):
        done = simpletuner(folder, "check", "--offline", *words, **environment)
        assert done.stdout.splitlines()[1] == f"{folder}/config/mine/config.json is valid."


def test_notes_come_before_the_run(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, "check", "--offline", "validation_steps=50", "snr_gamma=5", SIMPLETUNER_SEED="7")
    assert done.returncode == 0
    assert done.stdout.splitlines()[:4] == [
        "note: seed comes from the environment variable SIMPLETUNER_SEED",
        "note: validation_steps is called validation_step_interval now",
        "note: snr_gamma has no effect: it is for models that are trained by diffusion steps; FLUX is trained by flow "
        "matching",
        "note: black-forest-labs/FLUX.1-Krea-dev was not looked at: --offline",
    ]


def test_an_unknown_command_names_the_choices(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, "chekc")
    assert done.returncode == 2
    assert "chekc" in done.stderr


def test_options_are_shown_by_a_part_of_their_name(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, "options", "lora_alpha")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lora_alpha: number, above 0\n  How strongly the adapter acts")


@pytest.mark.parametrize(("word", "code"), [("seed=5", 0), ("seed=x", 2)])
def test_the_process_ends_with_the_code_and_without_a_traceback(folder: Path, word: str, code: int) -> None:
    command = [sys.executable, "-m", "simpletuner", "check", "--offline", "--config", "config/config.json", word]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_all_options_can_be_shown_with_their_defaults():
    command = [sys.executable, "-m", "simpletuner", "check", "--example", "demo", "--offline"]
    short = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    whole = subprocess.run([*command, "--all"], capture_output=True, text=True, check=True).stdout
    assert "grad_clip_method" not in short and "grad_clip_method" in whole
    assert "lora_rank" in short and "lora_rank" in whole
