"""Who follows a run: the console, a file in its folder, trackers and webhooks."""

from __future__ import annotations

from pathlib import Path

from simpletuner.config import RunConfig
from simpletuner.progress import JsonLines, Reporter
from simpletuner.training.trackers import Identity, open_tracker
from simpletuner.training.webhooks.sender import Sender

PROGRESS = "progress.jsonl"


def followers(config: RunConfig, console: Reporter) -> list[Reporter]:
    """Everybody who is told what happens."""
    folder, tracking = Path(config.run.output_dir), config.tracking
    identity = Identity(
        tracking.tracker_project_name, tracking.tracker_run_name, (folder / config.run.logging_dir).absolute()
    )
    trackers = [open_tracker(name, identity) for name in tracking.trackers()]
    hooks = [
        Sender(
            hook,
            project=tracking.tracker_project_name,
            run=tracking.tracker_run_name,
            interval=tracking.webhook_reporting_interval,
        )
        for hook in tracking.webhook_config
    ]
    return [console, JsonLines(folder / PROGRESS), *trackers, *hooks]
