"""How long a run is, and when it does what besides training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and when it does what besides training."""

    total_steps: int
    epochs: int
    accumulation: int
    evaluate_every: int = 0
    release_every: int = 0
    """How many steps lie between two moments at which unused memory goes back to the device; 0 for none."""
