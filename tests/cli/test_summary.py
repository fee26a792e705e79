"""What is said at the end of a run can be typed as it stands there."""

import sys
from pathlib import Path

import pytest

from simpletuner.cli.summary import closing, describe
from simpletuner.config import read
from simpletuner.results import Outcome


@pytest.mark.parametrize(
    ("called", "program"),
    [
        ("/work/simpletuner/__main__.py", "python -m simpletuner"),
        (f"{Path.cwd()}/.venv/bin/simpletuner", ".venv/bin/simpletuner"),
    ],
)
def test_the_next_command_is_one_that_works(called: str, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [called, "train"])
    here = Path("output")
    outcome = Outcome(here, here / "a", None, (), here / "README.md", here / "progress.jsonl", None, 3)
    assert f"2. {program} configure " in closing(outcome, is_demo=True)


def test_a_whole_model_is_not_called_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    outcome = Outcome(tmp_path, tmp_path / "transformer", None, (), tmp_path / "README.md", tmp_path / "p", None, 3)
    said = closing(outcome, is_demo=False)
    assert "model  " in said and "adapter" not in said


def test_a_run_is_shown_in_the_words_of_its_config_and_without_secrets(root: Path) -> None:
    webhook = '{"webhook_url": "https://example.com/secret"}'
    words = ["in_dims=1,2,3,4,5", "use_ema=true", "validation_negative_prompt=", f"webhook_config={webhook}"]
    path = root / "config" / "examples" / "demo" / "config.json"
    shown = [line.split() for line in describe(read(path, words, environment={}, folder=root)).splitlines()]
    assert ["in_dims", "[1,", "2,", "3,", "4,", "5]"] in shown
    assert ["use_ema", "true"] in shown and ["validation_negative_prompt", '""'] in shown
    assert ["webhook_config", *["not", "shown,", "because", "it", "may", "hold", "secrets"]] in shown
