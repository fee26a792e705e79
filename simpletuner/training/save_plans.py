"""What options about keeping a run do not go together with, and which have no effect as they stand."""

from __future__ import annotations

from collections.abc import Iterator

from simpletuner.errors import Problem
from simpletuner.training.options import Checkpoints, Ema, Run
from simpletuner.training.scripts import wrong_with


def conflicts(run: Run, checkpoints: Checkpoints, ema: Ema) -> Iterator[Problem]:
    """What cannot be done as the options stand together."""
    for option in ("post_checkpoint_script", "post_upload_script"):
        if command := checkpoints.__dict__[option]:
            yield from (Problem(option, said) for said in wrong_with(command))
    if command := run.disk_low_script:  # which is run for the disk, and not for a checkpoint
        yield from (Problem("disk_low_script", said) for said in wrong_with(command, ()))
    if ema.use_ema and ema.ema_cpu_only and ema.ema_device != "cpu":
        yield Problem("ema_cpu_only", f"needs the average in main memory; set ema_device to cpu, not {ema.ema_device}")


def remarks(run: Run, checkpoints: Checkpoints, ema: Ema) -> Iterator[str]:
    """What has no effect."""
    for option, field in Ema.model_fields.items():
        if not ema.use_ema and ema.__dict__[option] != field.default:
            yield f"{option} has no effect: use_ema is not set"
    has_rolling = checkpoints.checkpointing_rolling_steps or checkpoints.checkpoint_minutes_interval
    if checkpoints.checkpoints_rolling_total_limit != 1 and not has_rolling:
        what = "neither checkpointing_rolling_steps nor checkpoint_minutes_interval is set"
        yield f"checkpoints_rolling_total_limit has no effect: {what}"
    if run.disk_low_script is not None and run.disk_low_action != "script":
        yield f"disk_low_script has no effect: disk_low_action is {run.disk_low_action}"
