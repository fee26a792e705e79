"""What is said at the end of a run can be typed as it stands there."""

import sys
from pathlib import Path

import pytest

from simpletuner.cli.summary import closing
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
