"""How the model draws on in scheduled sampling: down a list of noise levels, with the solvers that also draw pictures.

Each asks the network for the direction at all levels but the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from simpletuner.models.samplers import DpmPlusPlus, Euler, Solver, UniPc
from simpletuner.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor

Ask = Callable[["Tensor", float], "Tensor"]
"""The direction from image to noise at latents and their noise level."""


def walked(solver: Solver, latents: Tensor, levels: Sequence[float], ask: Ask) -> Tensor:
    """The latents at the last of some noise levels, from those at the first."""
    for now, following in pairwise(levels):
        latents = solver.step(latents, ask(latents, now), now, following)
    return latents


def _euler(order: int) -> Solver:
    """Straight on in the direction that the model says."""
    return Euler()


SOLVERS: Choice[Callable[[int], Solver]] = Choice("solver", {"unipc": UniPc, "euler": _euler, "dpm": DpmPlusPlus})
