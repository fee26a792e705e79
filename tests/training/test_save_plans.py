"""What is said about options for keeping a run when they do not go together or do nothing."""

import pytest

from simpletuner.training.options import Checkpoints, Ema, Run
from simpletuner.training.save_plans import conflicts, remarks


def sections(**options):
    return [
        kind(**{name: value for name, value in given.items() if name in kind.model_fields})
        for kind in (Run, Checkpoints, Ema)
        for given in [{"data_backend_config": "data.json", **options}]
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ema_decay": 0.9, "ema_device": "accelerator"}, ["ema_decay", "ema_device"]),
        ({"use_ema": True, "ema_decay": 0.9}, []),
        ({"checkpoints_rolling_total_limit": 3}, ["checkpoints_rolling_total_limit"]),
        ({"checkpoints_rolling_total_limit": 3, "checkpointing_rolling_steps": 5}, []),
        ({"checkpoints_rolling_total_limit": 3, "checkpoint_minutes_interval": 5}, []),
        ({"disk_low_script": "true"}, ["disk_low_script"]),
        ({"disk_low_script": "true", "disk_low_action": "script"}, []),
        ({}, []),
    ],
)
def test_options_that_do_nothing_are_named(options, said):
    assert [one.partition(" has no effect: ")[0] for one in remarks(*sections(**options))] == said


def test_an_average_cannot_be_on_the_card_and_only_in_main_memory():
    given = {"use_ema": True, "ema_cpu_only": True}
    (wrong,) = conflicts(*sections(**given, ema_device="accelerator"))
    assert str(wrong) == "ema_cpu_only: needs the average in main memory; set ema_device to cpu, not accelerator"
    assert list(conflicts(*sections(**given))) == []


def test_commands_are_tried_by_name():
    wrong = conflicts(*sections(post_checkpoint_script="nothing-like-that", disk_low_script="true {what}"))
    assert [one.where for one in wrong] == ["post_checkpoint_script", "disk_low_script"]


def test_a_command_after_uploads_is_tried_by_name_too():
    (wrong,) = conflicts(*sections(post_upload_script="nothing-like-that"))
    assert str(wrong).startswith("post_upload_script: there is no program 'nothing-like-that'")


def test_a_script_for_a_full_disk_is_told_nothing_of_a_checkpoint():
    (wrong,) = conflicts(*sections(disk_low_script="rm {local_checkpoint_path}", disk_low_action="script"))
    assert wrong.what == "nothing is known of '{local_checkpoint_path}'; known are none here"
