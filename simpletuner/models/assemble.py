"""From a bare network to one that can be trained: precision, then adapter, then checkpointing and routing.

The order matters. The base is packed before the adapter is attached, because packing would pack the adapter too.
Routing hooks come last, so that they stand outside whatever the steps before did to a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.precision import PRECISIONS
from simpletuner.models.tread import Route, TokenRouter

if TYPE_CHECKING:
    import torch

    from simpletuner.models.family import Denoiser


@dataclass(frozen=True)
class Assembly:
    """What is done to the base network before training."""

    precision: str
    adapter: LoraPlan
    adapter_dtype: torch.dtype
    gradient_checkpointing: bool
    routes: Sequence[Route]
    seed: int


def assemble(denoiser: Denoiser, plan: Assembly) -> TokenRouter | None:
    """Change the network in place; returns the token router when there are routes."""
    PRECISIONS[plan.precision](denoiser.module, denoiser.blocks)
    lora.attach(denoiser.module, plan.adapter, plan.adapter_dtype, plan.seed)
    if plan.gradient_checkpointing:
        denoiser.module.enable_gradient_checkpointing()  # type: ignore[operator]  # a mixin of diffusers models
    return TokenRouter(denoiser.blocks, plan.routes) if plan.routes else None
