"""A checkpoint is whole or not there, and never used when it is damaged."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from simpletuner.errors import CheckpointError
from simpletuner.training.checkpoint import Checkpoints, damaged, decode_state, encode_state

FILES = {"weights.safetensors": b"w" * 100_000, "training_state.json": b'{"seed": 1}'}


def test_a_saved_checkpoint_is_found_again(tmp_path):
    saved = Checkpoints(tmp_path, keep=0).save(5, FILES)
    assert Checkpoints(tmp_path, keep=0).newest(pytest.fail) == saved
    assert {name: (saved / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 9, 0])
def test_as_many_are_kept_as_the_limit_allows(tmp_path, limit):
    checkpoints, steps = Checkpoints(tmp_path, keep=limit), range(1, 8)
    for step in steps:
        checkpoints.save(step, FILES)
        assert [path.name for path in checkpoints.all()] == [f"checkpoint-{one}" for one in steps[:step][-limit:]]


def test_the_oldest_over_the_limit_go_by_step_and_not_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 100, 1000):
        checkpoints.save(step, FILES)
    assert [path.name for path in checkpoints.all()] == ["checkpoint-100", "checkpoint-1000"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(tmp_path, harm):
    checkpoints = Checkpoints(tmp_path, keep=0)
    good, bad = checkpoints.save(5, FILES), checkpoints.save(10, FILES)
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


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=0)
    checkpoints.save(5, FILES)
    checkpoints.save(5, {"other": b"1"})
    assert damaged(tmp_path / "checkpoint-5") is None
    assert not (tmp_path / "checkpoint-5" / "weights.safetensors").exists()


def test_a_disk_that_cannot_be_written_is_named_and_leaves_the_others_alone(tmp_path):
    good = Checkpoints(tmp_path, keep=0).save(5, FILES)
    (tmp_path / ".checkpoint-10.partial").write_text("a file where a folder must be")
    (tmp_path / ".checkpoint-10.partial").chmod(0)
    blocked = Checkpoints(tmp_path / "checkpoint-5" / "weights.safetensors", keep=0)
    with pytest.raises(CheckpointError, match="checkpoint of step 10 could not be written"):
        blocked.save(10, FILES)
    assert damaged(good) is None


@pytest.mark.slow
def test_kill_at_any_moment_leaves_only_whole_checkpoints(tmp_path):
    script = textwrap.dedent("""
        import itertools, sys
        from pathlib import Path
        from simpletuner.training.checkpoint import Checkpoints
        print("started", flush=True)
        for step in itertools.count(1):
            files = {f"part{n}": bytes([step % 256]) * 300_000 for n in range(3)}
            Checkpoints(Path(sys.argv[1]), keep=2).save(step, files)
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


def test_a_nested_state_comes_back_as_it_was():
    state = {
        "state": {0: {"step": 3, "mean": torch.arange(4.0)}, 1: {}},
        "groups": [{"betas": (0.9, 0.99), "fused": None}],
    }
    found = decode_state(encode_state(state))
    assert torch.equal(found["state"][0].pop("mean"), state["state"][0].pop("mean"))
    assert found == state


def test_what_a_checkpoint_cannot_hold_is_refused_by_name():
    with pytest.raises(TypeError, match="/fn is a function"):
        encode_state({"fn": len.__class__ and test_a_nested_state_comes_back_as_it_was})
