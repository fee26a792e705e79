"""``simpletuner push`` refuses what cannot be a place on the Hub before it keeps anything to send."""

import json

import pytest
from click.testing import CliRunner

from simpletuner.cli.push import command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "not a name"], "'not a name' cannot be the name of a repository; use letters"),
        (["--to", "https://huggingface.co/you/me"], "'https://huggingface.co/you/me' is an address; give the id alone"),
        (["--to", "you/me", "--branch", "a b"], "'a b' cannot be a branch; use letters"),
        ([], "'my lora' cannot be the name of a repository"),
    ],
)
def test_a_place_that_cannot_be_is_refused_and_leaves_nothing_that_waits(tmp_path, words, said):
    (tmp_path / "simpletuner_config.json").write_text(json.dumps({"tracker_project_name": "my lora"}))
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    done = CliRunner().invoke(command, [str(tmp_path), *words])
    assert done.exit_code == 2 and said in " ".join(done.output.split())
    assert not (tmp_path / "outbox").exists()
