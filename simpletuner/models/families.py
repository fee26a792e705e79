"""The table of model families: one line for each."""

from __future__ import annotations

from simpletuner.models.family import Family
from simpletuner.models.flux.family import Flux
from simpletuner.schema import Choice

FAMILIES: Choice[Family] = Choice("model family", {"flux": Flux()})
