"""Where a run lives, how it begins, and how long it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from simpletuner.schema import IfChanged, NoEffect, Section, conflict
from simpletuner.training.disk import LOW_ACTIONS, bytes_of


def _size(value: str) -> str:
    bytes_of(value)
    return value


class Run(Section):
    """Where a run lives, and how it begins."""

    output_dir: Path = Path("output")
    """The folder for everything that the run makes."""
    logging_dir: Path = Path("logs")
    """The folder for files of trackers, inside output_dir unless it is absolute."""
    data_backend_config: str
    """The file that lists the data sets, usually config/multidatabackend.json."""
    cache_dir: Path | None = None
    """The folder for caches that are shared by all runs; cache unless given."""
    seed: int | None = Field(default=None, ge=-1, lt=2**62)
    """Where all randomness comes from: the same seed gives the same run. 0, -1 and nothing choose a new one."""
    seed_for_each_device: Annotated[
        bool, NoEffect("randomness follows the number of the sample, so every device gets its own by itself")
    ] = True
    """Uses other random numbers on each device."""
    resume_from_checkpoint: str | None = "latest"
    """Where to go on: latest, the name of a checkpoint, a path, or none to start anew."""
    i_know_what_i_am_doing: Annotated[bool, NoEffect("no check can be switched off")] = False
    """Turns some errors of SimpleTuner into warnings."""
    configs_dir: Annotated[str, NoEffect("it belongs to a web interface")] = ""
    """Where SimpleTuner's web interface keeps configs."""
    merge_environment_config: Annotated[bool | None, NoEffect("it belongs to a web interface")] = None
    """How SimpleTuner's web interface joins configs."""
    disk_low_threshold: Annotated[str | None, AfterValidator(_size)] = None
    """How much must be free in output_dir, such as 10G, at the start and after each checkpoint; else what one needs."""
    disk_low_action: Annotated[str, LOW_ACTIONS] = "stop"
    """What to do when less is free."""
    disk_low_script: str | None = None
    """The command that makes room, for disk_low_action script; it runs without a shell, and training waits for it."""

    @model_validator(mode="after")
    def _script_for_its_action(self) -> Run:
        if self.disk_low_action == "script" and self.disk_low_script is None:
            raise conflict("disk_low_action, disk_low_script", "go together; give the command, or choose stop")
        return self


class Duration(Section):
    """How long a run is, and how many images make a step."""

    if_changed: ClassVar[IfChanged] = IfChanged.TOLD

    max_train_steps: Annotated[int | None, IfChanged.FINE] = Field(default=None, ge=0)
    """How many steps to train; 0 leaves it to num_train_epochs."""
    num_train_epochs: Annotated[float | None, IfChanged.FINE] = Field(default=None, ge=0)
    """How many times everything is shown, such as 10 or 0.5; 0 leaves it to max_train_steps. Without either, once."""
    strict_epoch_limit: Annotated[bool, NoEffect("a run ends at the step or epoch it is given")] = False
    """Stops at num_train_epochs even if steps remain."""
    train_batch_size: int = Field(default=1, ge=1)
    """How many images are trained on at once: more are steadier and need more memory."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """How many batches make one step: as if the batch were so many times larger, without its memory."""

    @model_validator(mode="after")
    def _one_measure(self) -> Duration:
        if self.max_train_steps and self.num_train_epochs:
            given = f"{self.max_train_steps} steps and {self.num_train_epochs:g} epochs"
            raise conflict(_LENGTH, f"cannot both be set, got {given}; set one of them to 0")
        if self.num_train_epochs == 0 and not self.max_train_steps:
            raise conflict(_LENGTH, "are 0 or not set, so there is nothing to train; set one of them to more than 0")
        return self


_LENGTH = "max_train_steps, num_train_epochs"
