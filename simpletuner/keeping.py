"""What a config says about what is kept of a run: checkpoints and when they are made, averages, and the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from simpletuner import labels, plans
from simpletuner.config import RunConfig
from simpletuner.data.sampler import Order
from simpletuner.manifest import Made, made
from simpletuner.models.trained import Trained, parameters_of
from simpletuner.preparation import Prepared
from simpletuner.progress import Reporter
from simpletuner.training import checkpoint
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.disk import Disk, bytes_of
from simpletuner.training.ema import Average, Averaged, Following
from simpletuner.training.occasions import Occasions, Timer
from simpletuner.training.runtime import Runtime
from simpletuner.training.saving import Rhythm, Saving
from simpletuner.training.schedule import Schedule
from simpletuner.training.scripts import Script
from simpletuner.training.signals import Wishes
from simpletuner.training.updates import Updates


def checkpoints(config: RunConfig) -> Checkpoints:
    """The checkpoints in the output folder of a run."""
    options = config.checkpoints
    return Checkpoints(
        folder=Path(config.run.output_dir),
        keep=options.checkpoints_total_limit,
        keep_rolling=options.checkpoints_rolling_total_limit,
        hours=options.checkpoints_hours_limit,
    )


def averaged(config: RunConfig, trained: Trained, runtime: Runtime) -> Trained:
    """What is trained, with its average where there is one; to be called when the weights are on their device."""
    import torch

    options = config.ema
    if not options.use_ema:
        return trained
    place = runtime.device if options.ema_device == "accelerator" else torch.device("cpu")
    average = Average(parameters_of(trained), place, works_there=options.ema_cpu_only)
    following = Following(options.ema_decay, options.ema_update_interval, options.ema_warmup_steps)
    return Averaged(trained, average, following, is_small=config.model.model_type == "lora")


def saving(
    config: RunConfig,
    prepared: Prepared,
    parts: tuple[Checkpoints, Trained, Updates],
    order: Order,
    schedule: Schedule,
    runtime: Runtime,
    reporter: Reporter,
) -> Saving:
    """What keeps the parts of a run."""
    found, trained, updates = parts
    after = script(config, "post_checkpoint_script", config.checkpoints.post_checkpoint_script, reporter)
    return Saving(
        checkpoints=found if after is None else replace(found, is_used=after.is_using),
        trained=trained,
        updates=updates,
        runtime=runtime,
        reporter=reporter,
        disk=disk(config, reporter),
        rhythm=_rhythm(config, order),
        wishes=Wishes(speaks=runtime.group.place.rank == 0),
        script=after,
        metadata=labels.metadata(config, prepared.weights, prepared.datasets, schedule, runtime.seed),
        resolved_config=config.dump(),
        pace=order.pace,
        data={one.id: {"images": len(one.records), "fingerprint": one.fingerprint()} for one in prepared.datasets},
    )


def disk(config: RunConfig, reporter: Reporter) -> Disk:
    """The disk that a run writes to."""
    options = config.run
    low = bytes_of(options.disk_low_threshold) if options.disk_low_threshold else 0
    return Disk(Path(options.output_dir), reporter, low, options.disk_low_action, options.disk_low_script)


def manifest(config: RunConfig, prepared: Prepared, runtime: Runtime, resume_from: Path | None) -> Made:
    """What the run is made with, which is written into its output folder too."""
    base, begun = plans.name_of_base(config, runtime), checkpoint.step_of(resume_from)
    found = made([*prepared.datasets, *prepared.evaluation], base, runtime, begun)
    found.written(Path(config.run.output_dir))
    return found


def epochs_over(order: Order) -> Callable[[int], int]:
    """How many epochs are over after so many steps."""
    return partial(_epochs_over, order)


def _epochs_over(order: Order, step: int) -> int:
    return order.epoch_of(order.pace.batch_of(step))


def _rhythm(config: RunConfig, order: Order) -> Rhythm:
    options = config.checkpoints
    return Rhythm(
        lasting=Occasions(options.checkpoint_step_interval, options.checkpoint_epoch_interval or 0, epochs_over(order)),
        rolling=Occasions(options.checkpointing_rolling_steps),
        timer=Timer(options.checkpoint_minutes_interval),
    )


def script(config: RunConfig, option: str, command: str | None, reporter: Reporter) -> Script | None:
    """The command of an option that runs beside training, where there is one."""
    if command is None:
        return None
    return Script(option, command, facts(config), Path(config.run.output_dir) / f"{option}.log", reporter)


def facts(config: RunConfig) -> dict[str, str]:
    """What commands of the user are told about a run."""
    options = config.publishing
    return {
        "tracker_run_name": config.tracking.tracker_run_name,
        "tracker_project_name": config.tracking.tracker_project_name,
        "model_family": config.model.model_family,
        "model_type": config.model.model_type,
        "lora_type": config.adapter.lora_type,
        "huggingface_path": repository(config) if options.push_to_hub else options.hub_model_id or "",
    }


def repository(config: RunConfig) -> str:
    """Where a run is uploaded to."""
    return config.publishing.hub_model_id or config.tracking.tracker_project_name
