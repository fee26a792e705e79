"""A disk without room is met before a checkpoint is written, and what the options say is done about it."""

import sys

import pytest

from simpletuner.errors import CheckpointError
from simpletuner.progress import Recorded
from simpletuner.training.disk import Disk, bytes_of, free_on, shown


def disk(tmp_path, free, **options):
    """A disk that has so many bytes free, one number after the other, and the last one for ever."""
    left = list(free)
    recorded = Recorded()
    made = Disk(tmp_path, recorded, free=lambda folder: left.pop(0) if len(left) > 1 else left[0], pause=0, **options)
    return made, recorded


@pytest.mark.parametrize(
    ("size", "expected"),
    [("10G", 10 * 1024**3), ("1.5 M", 3 * 512**2 * 2), ("800", 800), ("2TB", 2 * 1024**4), ("3kib", 3072)],
)
def test_sizes_are_read_as_people_write_them(size, expected):
    assert bytes_of(size) == expected


@pytest.mark.parametrize("size", ["", "much", "-1G", "10X", "G"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="is no size"):
        bytes_of(size)


def test_sizes_are_shown_in_a_unit_that_fits():
    assert [shown(size) for size in (12, 2048, 3 * 1024**2, 1536 * 1024**2, 5 * 1024**4)] == [
        "12 bytes",
        "2 KiB",
        "3 MiB",
        "1.5 GiB",
        "5 TiB",
    ]


def test_the_free_space_is_that_of_the_disk_that_a_folder_will_be_on(tmp_path):
    assert free_on(tmp_path / "not" / "there" / "yet") == pytest.approx(free_on(tmp_path), rel=0.05)


def test_room_enough_is_not_worth_a_word(tmp_path):
    made, recorded = disk(tmp_path, [1000], low=900)
    made.make_room(1000)
    made.refuse_low("checkpoint-1")
    assert recorded.events == []


def test_a_checkpoint_that_does_not_fit_is_refused_with_what_it_needs(tmp_path):
    made, _ = disk(tmp_path, [2048])
    with pytest.raises(CheckpointError, match=r"it needs about 4 KiB, and '.*' has 2 KiB free\. Free some space"):
        made.make_room(4096)


def test_a_disk_that_is_nearly_full_ends_the_run_when_the_checkpoint_is_there(tmp_path):
    made, _ = disk(tmp_path, [5000], low=10_000)
    made.make_room(4096)
    with pytest.raises(CheckpointError, match=r"less than disk_low_threshold \(9.77 KiB\)\. checkpoint-3 is saved"):
        made.refuse_low("checkpoint-3 is saved")


def test_a_run_is_not_begun_on_a_disk_that_is_nearly_full(tmp_path):
    made, _ = disk(tmp_path, [5000], low=10_000)
    with pytest.raises(CheckpointError, match=r"less than disk_low_threshold \(9.77 KiB\)\. Nothing was begun: free"):
        made.begin()


@pytest.mark.parametrize("low", [0, 5000])
def test_a_run_begins_on_a_disk_with_room_without_a_word(tmp_path, low):
    made, recorded = disk(tmp_path, [5000], low=low)
    made.begin()
    assert recorded.events == []


def test_before_a_run_too_a_script_makes_room_and_waiting_ends_with_it(tmp_path):
    made, recorded = disk(tmp_path, [10, 5000], low=4000, action="script", script="true")
    made.begin()
    assert recorded.texts() == [f"'{tmp_path}' is nearly full; disk_low_script runs"]
    made, recorded = disk(tmp_path, [10, 10, 20, 5000], low=4000, action="wait")
    made.begin()
    assert recorded.texts() == [f"'{tmp_path}' has 10 bytes free; training waits until it has 3.91 KiB"]


def test_waiting_ends_when_there_is_room(tmp_path):
    made, recorded = disk(tmp_path, [10, 10, 20, 30, 5000], low=4000, action="wait")
    made.make_room(100)
    made.refuse_low("checkpoint-1")
    assert len(recorded.texts()) == 1 and "training waits until it has 3.91 KiB" in recorded.texts()[0]


def test_waiting_ends_when_the_run_is_asked_to_stop(tmp_path):
    made, _ = disk(tmp_path, [500], low=4000, action="wait")
    made.make_room(100, is_over=lambda: True)


def test_a_script_makes_room_and_training_waits_for_it(tmp_path):
    (tmp_path / "ballast").write_bytes(b"x" * 100)
    recorded = Recorded()
    command = f"{sys.executable} -c \"import os; os.unlink(r'{tmp_path / 'ballast'}')\""
    made = Disk(
        tmp_path,
        recorded,
        low=1000,
        action="script",
        script=command,
        free=lambda folder: 10 if (folder / "ballast").exists() else 5000,
    )
    made.make_room(100)
    assert recorded.texts() == [f"'{tmp_path}' is nearly full; disk_low_script runs"]


def test_a_script_may_be_named_from_the_home_folder_or_by_a_variable(tmp_path, monkeypatch):
    (tmp_path / "room").write_text("#!/bin/sh\nrm $1\n")
    (tmp_path / "room").chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BALLAST", str(tmp_path / "ballast"))
    (tmp_path / "ballast").write_bytes(b"")
    made, recorded = disk(tmp_path, [10, 5000], action="script", script="~/room $BALLAST")
    made.make_room(100)
    assert recorded.texts() == [f"'{tmp_path}' is nearly full; disk_low_script runs"]
    assert not (tmp_path / "ballast").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [("false", "disk_low_script ended with exit code 1"), ("/no/such/program", "disk_low_script cannot be run: ")],
)
def test_a_script_that_fails_is_told_and_the_run_ends(tmp_path, command, said):
    made, recorded = disk(tmp_path, [10], action="script", script=command)
    with pytest.raises(CheckpointError, match="no room for a checkpoint"):
        made.make_room(100)
    assert recorded.texts()[-1].startswith(said)
