"""Who is told how training goes, and what is uploaded."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from simpletuner.schema import Listed, NoEffect, NotYet, Section, words
from simpletuner.training.trackers import TRACKERS, is_installed
from simpletuner.training.webhooks.options import Webhooks


class Publishing(Section):
    """What is uploaded."""

    push_to_hub: bool = False
    """Uploads the result to the Hugging Face Hub."""
    push_checkpoints_to_hub: bool = False
    """With push_to_hub, uploads the weights of every checkpoint too, in a folder of its name and as the newest."""
    push_to_hub_background: Annotated[bool, NoEffect("checkpoints are always uploaded while training goes on")] = False
    """Uploads while training goes on."""
    hub_model_id: str | None = None
    """The repository on the Hub, such as you/my-lora; tracker_project_name unless given."""
    hub_branch: str | None = None
    """The branch of the repository that is uploaded to, which is made if need be; main unless given."""
    model_card_private: bool = True
    """Makes the repository private."""
    model_card_safe_for_work: bool = False
    """Says on the model card that the model is safe for work."""
    model_card_note: str | None = None
    """A text of your own for the model card."""
    modelspec_comment: str | None = None
    """A comment that is kept inside the adapter file."""
    private_metadata: bool = False
    """Leaves the title, trigger words, tags, folder names and settings out of the header of the adapter file."""
    publishing_config: Annotated[Any, NotYet("use push_to_hub")] = None
    """Uploads to storage services other than the Hub."""


NONE = "none"
REPORTS = words(
    "tracker",
    {
        NONE: "No tracker; progress.jsonl is always written.",
        "all": "Every tracker whose package is installed.",
        **{name: TRACKERS.summary(name) for name in TRACKERS},
    },
    later=TRACKERS.later,
)


class Tracking(Section):
    """Who is told how training goes."""

    report_to: Annotated[tuple[Annotated[str, REPORTS], ...], Listed] = (NONE,)
    """Trackers to report to: tensorboard, wandb, trackio, several with commas, all, or none."""
    tracker_project_name: str = Field(default="simpletuner", min_length=1)
    """The project in the tracker."""
    tracker_run_name: str = Field(default="simpletuner-testing", min_length=1)
    """The name of the run in the tracker, and the title of the model."""
    tracker_image_layout: Annotated[str, NoEffect("images are shown as a gallery")] = "gallery"
    """How pictures are shown in the tracker."""
    custom_tracker: Annotated[str | None, NotYet("use tensorboard or wandb")] = None
    """A tracker of your own."""
    webhook_config: Webhooks = Field(default=(), exclude=True)
    """Sends messages about the run to Discord or a service of your own: an object, a list, or a JSON file."""
    webhook_reporting_interval: float = Field(default=10.0, ge=0)
    """The least number of seconds between two messages about steps."""

    def trackers(self) -> list[str]:
        """The trackers to open."""
        return [name for name in TRACKERS if name in self.report_to or ("all" in self.report_to and is_installed(name))]
