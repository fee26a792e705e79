"""A command of the user that draws pictures, or measures something, instead of this program."""

from __future__ import annotations

import math
from dataclasses import dataclass

from simpletuner.progress import Notice, Reporter
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.scripts import Script


@dataclass(frozen=True)
class ValidationScript:
    """Starts the command for the newest checkpoint."""

    script: Script
    checkpoints: Checkpoints
    reporter: Reporter
    waits: bool
    """Whether training goes on only when the command has ended."""

    def run(self, step: int) -> None:
        """Run it after a step; without a checkpoint, there is nothing that it could look at."""
        known = list(self.checkpoints.all())
        if not known:
            self.reporter.report(Notice(f"validation after step {step} is left out: there is no checkpoint yet"))
            return
        self.script.start(known[-1], step)
        if self.waits:
            self.script.wait(math.inf)
