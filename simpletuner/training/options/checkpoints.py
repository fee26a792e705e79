"""What is kept while training goes on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simpletuner.schema import NoEffect, NotYet, Section, belongs_to

_NO_EMA = NotYet("leave it out: the last weights are saved, and earlier ones in checkpoints")
_NO_SCRIPTS = NotYet("leave it out: no scripts are run")


class Ema(Section):
    """Averages of the trained weights."""

    use_ema: Annotated[bool, _NO_EMA] = False
    """Keeps a running average of the trained weights."""
    ema_decay: Annotated[float, belongs_to("use_ema")] = 0.995
    """How slowly the average follows the weights: nearer to 1 is slower."""
    ema_update_interval: Annotated[int, belongs_to("use_ema")] = 1
    """The number of steps after which the average follows the weights again."""
    ema_device: Annotated[str, belongs_to("use_ema")] = "cpu"
    """Whether the average is kept in main memory or on the card."""
    ema_cpu_only: Annotated[bool, belongs_to("use_ema")] = False
    """Updates the average in main memory, too."""
    ema_foreach_disable: Annotated[bool, belongs_to("use_ema")] = False
    """Updates the average weight by weight, with less memory."""
    ema_warmup_steps: Annotated[int, belongs_to("use_ema")] = 0
    """The step from which on the average is kept."""
    ema_validation: Annotated[str, belongs_to("use_ema")] = "comparison"
    """Whether validation draws with the average, with the last weights, or with both."""


class Checkpoints(Section):
    """What is kept so that a run can go on."""

    checkpoint_step_interval: int = Field(default=500, ge=0)
    """A checkpoint is kept every so many steps, and always at the end; 0 keeps only that at the end."""
    checkpoint_epoch_interval: Annotated[int | None, NotYet("use checkpoint_step_interval")] = None
    """A checkpoint is kept every so many epochs."""
    checkpoints_total_limit: int = Field(default=5, ge=0)
    """How many checkpoints are kept; the oldest go first. 0 keeps all."""
    checkpointing_rolling_steps: Annotated[int, NotYet("use checkpoint_step_interval")] = 0
    """Keeps further checkpoints, which are soon replaced, every so many steps."""
    checkpoints_rolling_total_limit: Annotated[int, belongs_to("checkpointing_rolling_steps")] = 1
    """How many of the checkpoints that are soon replaced are kept."""
    checkpointing_use_tempdir: Annotated[bool, NoEffect("checkpoints always appear whole")] = False
    """Writes a checkpoint under another name until it is whole."""
    delete_invalid_checkpoints: Annotated[bool, NoEffect("damaged checkpoints are passed over, not deleted")] = False
    """Deletes checkpoints that are damaged."""
    post_checkpoint_script: Annotated[str | None, _NO_SCRIPTS] = None
    """A command to run after each checkpoint."""
    post_upload_script: Annotated[str | None, _NO_SCRIPTS] = None
    """A command to run after each upload."""
