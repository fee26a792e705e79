"""What a sample is trained at, what the network sees of it, what it should answer, and how an answer is judged.

Pure functions over tensors; `path` says what noise levels and velocities are.
"""

from __future__ import annotations

from simpletuner.training.objective.levels import logit_normal, shifted
from simpletuner.training.objective.losses import squared_error
from simpletuner.training.objective.path import noised, velocity

__all__ = ["logit_normal", "noised", "shifted", "squared_error", "velocity"]
