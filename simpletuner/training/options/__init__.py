"""What a config says about a run: how long, how fast, towards what, and what is kept of it. Imports no torch."""

from __future__ import annotations

from simpletuner.training.options.checkpoints import Checkpoints, Ema
from simpletuner.training.options.distributed import Distributed
from simpletuner.training.options.objective import GUIDANCE_MODES, Objective
from simpletuner.training.options.optimization import CLIP_METHODS, Optimization
from simpletuner.training.options.publishing import NONE, REPORTS, Publishing, Tracking
from simpletuner.training.options.run import Duration, Run
from simpletuner.training.options.validation import IMAGE_FORMATS, Validation

__all__ = [
    "CLIP_METHODS",
    "Checkpoints",
    "Distributed",
    "Duration",
    "Ema",
    "GUIDANCE_MODES",
    "IMAGE_FORMATS",
    "NONE",
    "Objective",
    "Optimization",
    "Publishing",
    "REPORTS",
    "Run",
    "Tracking",
    "Validation",
]
