"""A command of the user runs for every checkpoint, beside training and without a shell."""

import sys

import pytest

from simpletuner.progress import Recorded
from simpletuner.training.scripts import Script, filled, wrong_with


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def script(tmp_path, recorded):
    def made(code, *arguments):
        (tmp_path / "script.py").write_text(code)
        command = " ".join([sys.executable, str(tmp_path / "script.py"), *arguments])
        return Script("post_checkpoint_script", command, {"model_family": "flux"}, tmp_path / "log", recorded)

    return made


def test_a_command_is_told_about_its_checkpoint(tmp_path, script, recorded):
    made = script(
        "import sys; print(sys.argv[1:])", "{local_checkpoint_path}", "--step={global_step}", "{model_family}"
    )
    made.start(tmp_path / "checkpoint-5", 5)
    made.wait()
    assert (tmp_path / "log").read_text() == f"['{tmp_path / 'checkpoint-5'}', '--step=5', 'flux']\n"
    assert recorded.events == []


def test_training_does_not_wait_and_the_checkpoint_is_in_use_until_the_command_ends(tmp_path, script):
    made = script(f"import pathlib, time\nwhile not pathlib.Path(r'{tmp_path}', 'go').exists(): time.sleep(0.01)")
    made.start(tmp_path / "checkpoint-5", 5)
    assert made.is_using(tmp_path / "checkpoint-5") and not made.is_using(tmp_path / "checkpoint-6")
    (tmp_path / "go").touch()
    made.wait()
    assert not made.is_using(tmp_path / "checkpoint-5")


def test_a_command_that_fails_is_told_and_nothing_else_happens(tmp_path, script, recorded):
    made = script("import sys; sys.exit(3)")
    made.start(tmp_path / "checkpoint-5", 5)
    made.wait()
    assert recorded.texts() == [
        f"post_checkpoint_script ended with exit code 3 for checkpoint-5; see {tmp_path / 'log'}"
    ]


def test_a_command_that_takes_too_long_is_left_to_itself(tmp_path, script, recorded):
    made = script("import time; time.sleep(60)")
    made.start(tmp_path / "checkpoint-5", 5)
    made.wait(seconds=0.05)
    assert recorded.texts() == ["post_checkpoint_script still runs for checkpoint-5, and goes on after this run"]
    made.running[0][1].kill()


def test_a_command_that_runs_twice_for_one_folder_is_told_about_both_times(tmp_path, script, recorded):
    code = "import sys; print(*sys.argv[1:], flush=True); sys.exit(3)"
    made = script(code, "{global_step}", "{remote_checkpoint_path}")
    made.start(tmp_path, 1, remote="https://hub/you/lora")
    made.start(tmp_path, 2)
    made.wait()
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["1 https://hub/you/lora", "2 "]
    assert len(recorded.texts()) == 2


def test_what_stands_in_a_fact_never_becomes_a_word_or_a_command_of_its_own(tmp_path):
    facts = {"tracker_run_name": 'my run; rm -rf "$HOME" `id` {global_step}', "global_step": "5"}
    assert filled("notify '{tracker_run_name}' {global_step}", facts) == ["notify", facts["tracker_run_name"], "5"]
    assert filled("notify name={tracker_run_name}", facts) == ["notify", f"name={facts['tracker_run_name']}"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo 'open", "cannot be split into words"),
        ("no-such-program-here {global_step}", "there is no program 'no-such-program-here'"),
        ("", "there is no program ''"),
        ("echo {step}", r"nothing is known of '{step}'; known are local_checkpoint_path, global_step"),
    ],
)
def test_what_is_wrong_with_a_command_is_known_before_it_runs(command, said):
    (wrong,) = wrong_with(command)
    assert said in wrong


def test_a_good_command_has_nothing_wrong():
    assert list(wrong_with("echo {local_checkpoint_path} {huggingface_path} {{x}}".replace("{{x}}", ""))) == []
