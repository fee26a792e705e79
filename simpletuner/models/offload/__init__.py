"""Weights that are on the device only while it computes with them."""

from __future__ import annotations

from simpletuner.models.offload.conveyor import Conveyor
from simpletuner.models.offload.plans import SMALLEST, BlockSwap, Groups, LastBlocks, Leaves, Offload, attach, settle

__all__ = ["BlockSwap", "Conveyor", "Groups", "LastBlocks", "Leaves", "Offload", "SMALLEST", "attach", "settle"]
