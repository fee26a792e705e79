"""What a step costs: memory, and the share of what the device could compute at most."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GIBI = 1024**3
_ROUNDS = 5


@dataclass(frozen=True)
class Gauges:
    """Measures the steps of a run."""

    device: torch.device
    rate: float
    """Floating point operations a second in products of matrices, as this device really does them."""
    passes: float
    """How much a whole step computes, in forward passes: that and what the gradients need."""

    def read(self, work: Sequence[float], seconds: float) -> dict[str, float]:
        """The numbers of a step.

        Args:
            work: Floating point operations of the forward pass of each batch.
            seconds: How long the step took.
        """
        share = self.passes * sum(work) / seconds / self.rate
        return {"memory_gib": round(memory(self.device) / _GIBI, 3), "share_of_peak": round(share, 4)}


def memory(device: torch.device) -> int:
    """The most bytes that were in use at once, on the card, or without one in main memory."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def rate_of(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of matrix products: the best of a few, which are long enough to be measured."""
    import torch

    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_ROUNDS):
        _finish(device)
        started = time.perf_counter()
        torch.mm(left, right)
        _finish(device)
        seconds.append(time.perf_counter() - started)
    return 2.0 * size**3 / min(seconds)


def _finish(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
