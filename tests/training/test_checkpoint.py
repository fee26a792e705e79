"""A checkpoint is whole or not there, and never used when it is damaged."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from simpletuner.errors import CheckpointError
from simpletuner.training.checkpoint import Checkpoints, damaged, read_state, write_state

FILES = {"weights.safetensors": b"w" * 100_000, "training_state.json": b'{"seed": 1}'}


def writing(files):
    def write(folder):
        for name, data in files.items():
            (folder / name).write_bytes(data)

    return write


def test_a_saved_checkpoint_is_found_again(tmp_path):
    saved = Checkpoints(tmp_path, keep=0).save(5, writing(FILES))
    assert Checkpoints(tmp_path, keep=0).newest(pytest.fail) == saved
    assert {name: (saved / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 9, 0])
def test_as_many_are_kept_as_the_limit_allows(tmp_path, limit):
    checkpoints, steps = Checkpoints(tmp_path, keep=limit), range(1, 8)
    for step in steps:
        checkpoints.save(step, writing(FILES))
        assert [path.name for path in checkpoints.all()] == [f"checkpoint-{one}" for one in steps[:step][-limit:]]


def test_the_oldest_over_the_limit_go_by_step_and_not_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 100, 1000):
        checkpoints.save(step, writing(FILES))
    assert [path.name for path in checkpoints.all()] == ["checkpoint-100", "checkpoint-1000"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(tmp_path, harm):
    checkpoints = Checkpoints(tmp_path, keep=0)
    good, bad = checkpoints.save(5, writing(FILES)), checkpoints.save(10, writing(FILES))
    victim = bad / "weights.safetensors"
    if harm == "truncate":
        os.truncate(victim, 50)
    elif harm == "flip":
        victim.write_bytes(b"x" + victim.read_bytes()[1:])
    elif harm == "remove":
        victim.unlink()
    else:
        (bad / "checkpoint_manifest.json").unlink()
    said = []
    assert checkpoints.newest(said.append) == good
    assert len(said) == 1 and said[0].startswith("checkpoint-10 is passed over: ")


@pytest.mark.parametrize("wanted", ["checkpoint-5", "checkpoint-5/", "5"])
def test_a_checkpoint_may_be_named_by_its_folder_or_its_step(tmp_path, wanted):
    saved = Checkpoints(tmp_path, keep=0).save(5, writing(FILES))
    assert Checkpoints(tmp_path, keep=0).chosen(wanted, print) == saved


@pytest.mark.parametrize("wanted", ["latest", "Latest", " LATEST "])
def test_the_newest_may_be_asked_for_in_capitals(tmp_path, wanted):
    saved = Checkpoints(tmp_path, keep=0).save(5, writing(FILES))
    assert Checkpoints(tmp_path, keep=0).chosen(wanted, pytest.fail) == saved


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / "weights.safetensors").unlink(), "weights.safetensors is missing. Choose another"),
        (lambda path: (path / "checkpoint_manifest.json").unlink(), "checkpoint_manifest.json is missing. Choose"),
        (lambda path: (path / "checkpoint_manifest.json").write_text("[]"), "checkpoint_manifest.json is damaged"),
    ],
)
def test_what_is_wrong_with_a_chosen_checkpoint_is_said_by_the_name_of_the_file(tmp_path, harm, said):
    path = Checkpoints(tmp_path / "run", keep=0).save(5, writing(FILES))
    harm(path)
    with pytest.raises(CheckpointError, match=f"'{path}' cannot be used: {said}"):
        Checkpoints(tmp_path / "other", keep=0).chosen(str(path), pytest.fail)
    with pytest.raises(CheckpointError, match=f"no checkpoint '/nowhere'. In '{tmp_path}/run' there are: checkpoint-5"):
        Checkpoints(tmp_path / "run", keep=0).chosen("/nowhere", pytest.fail)


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=0)
    checkpoints.save(5, writing(FILES))
    checkpoints.save(5, writing({"other": b"1"}))
    assert damaged(tmp_path / "checkpoint-5") is None
    assert not (tmp_path / "checkpoint-5" / "weights.safetensors").exists()


def test_a_disk_that_cannot_be_written_is_named_and_leaves_the_others_alone(tmp_path):
    good = Checkpoints(tmp_path, keep=0).save(5, writing(FILES))
    (tmp_path / ".checkpoint-10.partial").write_text("a file where a folder must be")
    (tmp_path / ".checkpoint-10.partial").chmod(0)
    blocked = Checkpoints(tmp_path / "checkpoint-5" / "weights.safetensors", keep=0)
    with pytest.raises(CheckpointError, match="checkpoint of step 10 could not be written"):
        blocked.save(10, writing(FILES))
    assert damaged(good) is None


def test_rolling_ones_have_a_limit_of_their_own(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keep_rolling=1)
    for step in range(1, 11):
        checkpoints.save(step, writing(FILES), rolling=step % 5 > 0)
    assert [path.name for path in checkpoints.all()] == ["checkpoint-5", "checkpoint-9-rolling", "checkpoint-10"]
    assert checkpoints.newest(pytest.fail) == tmp_path / "checkpoint-10"
    for step in (11, 12, 13, 14):
        checkpoints.save(step, writing(FILES), rolling=True)
    assert checkpoints.newest(pytest.fail) == tmp_path / "checkpoint-14-rolling"
    assert checkpoints.has(10) and not checkpoints.has(14)


def test_of_one_step_the_one_that_lasts_is_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=0)
    for is_rolling in (False, True):
        checkpoints.save(5, writing(FILES), rolling=is_rolling)
    assert [path.name for path in checkpoints.all()] == ["checkpoint-5-rolling", "checkpoint-5"]


def test_a_rolling_one_can_be_chosen_and_set_aside_by_its_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=0)
    checkpoints.save(3, writing(FILES))
    late = checkpoints.save(5, writing(FILES), rolling=True)
    assert checkpoints.chosen("checkpoint-5-rolling", pytest.fail) == late
    assert checkpoints.set_aside(after=4) == ["checkpoint-5-rolling"]
    assert [path.name for path in checkpoints.all()] == ["checkpoint-3"]


def test_old_ones_go_when_a_new_one_is_there_but_never_the_newest(tmp_path):
    now = [time.time()]
    checkpoints = Checkpoints(tmp_path, keep=0, hours=10, clock=lambda: now[0])
    for step in (1, 2):
        checkpoints.save(step, writing(FILES))
    now[0] += 9.9 * 3600
    checkpoints.save(3, writing(FILES))
    assert len(checkpoints.all()) == 3
    now[0] += 3600
    checkpoints.save(4, writing(FILES))
    assert [path.name for path in checkpoints.all()] == ["checkpoint-4"]


def test_one_that_somebody_still_reads_stays_over_the_limit(tmp_path):
    read = [tmp_path / "checkpoint-1"]
    checkpoints = Checkpoints(tmp_path, keep=1, is_used=lambda path: path in read)
    checkpoints.save(1, writing(FILES))
    checkpoints.save(2, writing(FILES))
    assert len(checkpoints.all()) == 2
    read.clear()
    checkpoints.save(3, writing(FILES))
    assert [path.name for path in checkpoints.all()] == ["checkpoint-3"]


def test_what_killed_writers_left_is_taken_away_and_nothing_else(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=0)
    kept = checkpoints.save(5, writing(FILES))
    for name in (".checkpoint-10.partial", ".checkpoint-3-rolling.removed"):
        (tmp_path / name / "transformer").mkdir(parents=True)
    (tmp_path / "validation_images").mkdir()
    others = [tmp_path / "README.md", tmp_path / ".notes", tmp_path / "validation_images" / "step_5.png"]
    left = [tmp_path / ".0123456789abcdef.part", tmp_path / "validation_images" / ".fedcba9876543210.part"]
    for path in [*others, *left]:
        path.touch()
    checkpoints.tidy()
    assert sorted(tmp_path.rglob("*")) == sorted([*others, others[-1].parent, kept, *kept.iterdir()])


def test_the_size_of_the_next_one_is_that_of_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=0)
    assert checkpoints.usual_size() == 0
    checkpoints.save(5, writing(FILES))
    assert 100_000 < checkpoints.usual_size() < 101_000


@pytest.mark.slow
def test_kill_at_any_moment_leaves_only_whole_checkpoints(tmp_path):
    script = textwrap.dedent("""
        import itertools, sys
        from pathlib import Path
        from simpletuner.training.checkpoint import Checkpoints
        print("started", flush=True)
        for step in itertools.count(1):
            def write(folder):
                for n in range(3):
                    (folder / f"part{n}").write_bytes(bytes([step % 256]) * 300_000)
            Checkpoints(Path(sys.argv[1]), keep=2).save(step, write)
    """)
    rounds = 6 if os.environ.get("CI") else 30
    for number in range(rounds):
        running = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert running.stdout is not None and running.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(timeout=0.02 + 0.017 * number)
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
        for path in Checkpoints(tmp_path, keep=2).all():
            assert damaged(path) is None, path


def test_a_nested_state_comes_back_as_it_was(tmp_path):
    state = {
        "state": {0: {"step": 3, "mean": torch.arange(4.0)}, 1: {}},
        "groups": [{"betas": (0.9, 0.99), "fused": None}],
    }
    write_state(tmp_path / "state", state)
    found = read_state(tmp_path / "state")
    assert torch.equal(found["state"][0].pop("mean"), state["state"][0].pop("mean"))
    assert found == state


def test_what_a_checkpoint_cannot_hold_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="/fn is a function"):
        write_state(tmp_path / "state", {"fn": len.__class__ and test_a_nested_state_comes_back_as_it_was})
