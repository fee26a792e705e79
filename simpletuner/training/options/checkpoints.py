"""What is kept while training goes on."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from simpletuner.schema import IfChanged, NoEffect, Section, words

AVERAGE_PLACES = words(
    "place of the average",
    {
        "cpu": "Main memory.",
        "accelerator": "The card, which is faster and needs its memory.",
    },
)
AVERAGE_VIEWS = words(
    "use of the average",
    {
        "none": "Only the weights themselves are drawn with.",
        "ema_only": "Only the average is drawn with.",
        "comparison": "Both are drawn with, side by side.",
    },
)


class Ema(Section):
    """Averages of the trained weights."""

    if_changed: ClassVar[IfChanged] = IfChanged.TOLD

    use_ema: bool = False
    """Keeps a running average of the trained weights, and saves it in the folder ema beside them."""
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """How slowly the average follows the weights: nearer to 1 is slower. In the first steps it is faster by itself."""
    ema_update_interval: int = Field(default=1, ge=1)
    """The number of steps after which the average follows the weights again."""
    ema_device: Annotated[str, AVERAGE_PLACES, IfChanged.FINE] = "cpu"
    """Whether the average is kept in main memory or on the card."""
    ema_cpu_only: Annotated[bool, IfChanged.FINE] = False
    """Computes the average in main memory too, and not on the card piece by piece."""
    ema_foreach_disable: Annotated[bool, NoEffect("the average always follows weight by weight")] = False
    """Updates the average weight by weight, with less memory."""
    ema_warmup_steps: int = Field(default=0, ge=0)
    """The step up to which the average equals the weights; from then on ema_decay holds as it is."""
    ema_validation: Annotated[str, AVERAGE_VIEWS, IfChanged.FINE] = "comparison"
    """Whether validation draws with the average, with the last weights, or with both."""


class Checkpoints(Section):
    """What is kept so that a run can go on."""

    checkpoint_step_interval: int = Field(default=500, ge=0)
    """A checkpoint is kept every so many steps, and always at the end; 0 keeps only that at the end."""
    checkpoint_epoch_interval: int | None = Field(default=None, ge=1)
    """A checkpoint is kept at the end of every so many epochs, besides those of checkpoint_step_interval."""
    checkpoints_total_limit: int = Field(default=5, ge=0)
    """How many checkpoints are kept; the oldest go first. 0 keeps all."""
    checkpointing_rolling_steps: int = Field(default=0, ge=0)
    """Keeps further checkpoints, which are soon replaced, every so many steps; 0 keeps none."""
    checkpoint_minutes_interval: float = Field(default=0, ge=0)
    """Keeps further checkpoints, which are soon replaced, when so many minutes went by without one; 0 keeps none."""
    checkpoints_rolling_total_limit: int = Field(default=1, ge=0)
    """How many of the checkpoints that are soon replaced are kept; 0 keeps all."""
    checkpoints_hours_limit: float = Field(default=0, ge=0)
    """Checkpoints older than so many hours go when a new one is there, and the newest stays; 0 lets all stay."""
    checkpointing_use_tempdir: Annotated[bool, NoEffect("checkpoints always appear whole")] = False
    """Writes a checkpoint under another name until it is whole."""
    delete_invalid_checkpoints: Annotated[bool, NoEffect("damaged checkpoints are passed over, not deleted")] = False
    """Deletes checkpoints that are damaged."""
    post_checkpoint_script: str | None = None
    """A command to run after each checkpoint, without a shell; {local_checkpoint_path} in it is its folder."""
    post_upload_script: str | None = None
    """A command to run after each upload of push_to_hub, without a shell; {remote_checkpoint_path} is where it went."""
