"""What trackers are told is read back from what they wrote."""

import json
import sqlite3
import struct
import sys
import time
from contextlib import closing
from pathlib import Path

import house
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from simpletuner.progress import ImagesSaved, StepDone
from simpletuner.training import trackers
from simpletuner.training.trackers import Guarded, Identity


@pytest.fixture
def path(tmp_path, pictures):
    options = {
        "max_train_steps": 3,
        "validation_disable": False,
        "validation_prompt": "a red circle",
        "validation_resolution": "64x64",
        "validation_num_inference_steps": 1,
        "validation_disable_unconditional": True,
        "tracker_project_name": "tests",
        "tracker_run_name": "a run",
    }
    return house.write_run(tmp_path, [house.data_set("subject", pictures)], **options)


def steps(recorded):
    return [event for event in recorded.events if isinstance(event, StepDone)]


def test_tensorboard_holds_every_step_and_the_pictures(path, model):
    outcome, recorded = house.run(path, model, "report_to=tensorboard")
    events = EventAccumulator(str(outcome.folder / "logs" / "tensorboard"))
    events.Reload()
    written = [(one.step, one.value) for one in events.Scalars("train_loss")]
    assert written == [(one.step, pytest.approx(one.loss)) for one in steps(recorded)]
    assert len(events.Images("validation_0_64x64: a red circle")) == 1


def test_wandb_offline_holds_every_step_the_config_and_the_pictures(path, model, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome, recorded = house.run(path, model, "report_to=wandb")
    (run,) = (outcome.folder / "logs" / "wandb").glob("offline-run-*/run-*.wandb")
    rows, config = wandb_content(run)
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert losses == [pytest.approx(one.loss) for one in steps(recorded)]
    assert json.loads(config["lora_rank"]) == 4
    assert any("validation" in name for row in rows for name in row)


def test_trackio_holds_every_step_the_config_and_the_pictures(path, model, monkeypatch, tmp_path):
    if not trackers.is_installed("trackio"):
        pytest.skip("trackio wants an older Pillow than the rest")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    _, recorded = house.run(path, model, "report_to=trackio")
    with closing(sqlite3.connect(tmp_path / "trackio" / "tests.db")) as database:
        rows = [json.loads(row) for (row,) in database.execute("select metrics from metrics order by id")]
        ((config,),) = database.execute("select config from configs")
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert losses == [pytest.approx(one.loss) for one in steps(recorded)]
    assert json.loads(config)["lora_rank"] == 4
    assert any("_type" in str(row) for row in rows)


def test_progress_jsonl_holds_every_event_in_order(path, model):
    outcome, recorded = house.run(path, model)
    lines = [json.loads(line) for line in outcome.progress.read_text().splitlines()]
    assert [line["event"] for line in lines] == [type(event).__name__ for event in recorded.events]
    assert [line["loss"] for line in lines if line["event"] == "StepDone"] == [one.loss for one in steps(recorded)]


def test_several_trackers_can_be_named_with_commas(path, model, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome, _ = house.run(path, model, "report_to=tensorboard,wandb")
    assert {one.name for one in (outcome.folder / "logs").iterdir()} == {"tensorboard", "wandb"}


class Broken:
    """A tracker whose service is down."""

    def report(self, event):
        raise ConnectionError("no route to host")

    def close(self):
        raise ConnectionError("no route to host")


def test_a_tracker_that_fails_is_dropped_with_one_warning():
    with house.heard("simpletuner.training.trackers") as told:
        guarded = Guarded("broken", Broken)
        for _ in range(3):
            guarded.report(ImagesSaved(1, (), (), ""))
        guarded.close()
    assert told.getvalue().splitlines() == ["broken stopped tracking: no route to host"]


class Lacking(Broken):
    """A tracker that finds out late that one of its own packages is missing."""

    def report(self, event):
        raise ImportError("no module named moviepy")


def test_a_project_that_wandb_would_refuse_is_told_where_wandb_is_asked_for():
    assert list(trackers.wrong_project(["tensorboard"], "me/zorb")) == []
    (problem,) = trackers.wrong_project(["tensorboard", "wandb"], "me/zorb")
    assert str(problem) == "tracker_project_name: 'me/zorb' has / in it, which wandb does not take; change it"


def test_a_package_that_is_missing_only_on_the_way_ends_the_tracking_and_not_the_run():
    with house.heard("simpletuner.training.trackers") as told:
        guarded = Guarded("lacking", Lacking)
        guarded.report(ImagesSaved(1, (), (), ""))
    assert "lacking stopped tracking: no module named moviepy" in told.getvalue()


def test_every_tracker_says_what_it_is():
    assert all(trackers.TRACKERS.summary(name).endswith(".") for name in trackers.TRACKERS)
    assert Identity("p", "r", Path("x")).folder == Path("x")


def wandb_content(path):
    """History rows and config of an offline run: records of the LevelDB log format, each a protocol buffer."""
    rows, config = [], {}
    for record in wandb_whole(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        elif record.WhichOneof("record_type") == "config":
            config |= {item.key: item.value_json for item in record.config.update}
    return rows, config


def wandb_whole(path, patience=60.0):
    """All records of a run that has ended; wandb's own process may write the last ones a moment after it said so."""
    end = time.monotonic() + patience
    while True:
        records = [wandb_internal_pb2.Record.FromString(data) for data in wandb_records(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < end, "the run in wandb's file has no end"
        time.sleep(0.05)


def wandb_records(data, block=32768):
    place, whole = 7, b""
    while place < len(data):
        left = block - place % block
        if left < 7:
            place += left
            continue
        checksum, size, kind = struct.unpack("<IHB", data[place : place + 7])
        if (checksum, size, kind) == (0, 0, 0):
            return
        part = data[place + 7 : place + 7 + size]
        place += 7 + size
        whole = part if kind in (1, 2) else whole + part
        if kind in (1, 4):
            yield whole


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_without_its_package_is_told_by_the_check(name, monkeypatch):
    assert list(trackers.missing(["none", "all"])) == []
    monkeypatch.setattr(sys, "path", [])  # nothing can be found any more
    monkeypatch.delitem(sys.modules, name, raising=False)
    (problem,) = trackers.missing([name])
    assert str(problem).startswith(f"report_to: '{name}' is not installed; install it with: pip install 'simpletuner[")
