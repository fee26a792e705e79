"""From a bare network to one that can be trained: base adapters, precision, adapter, memory and speed, then routing.

The order matters. Base adapters are merged, and projections joined, while the weights are plain. The base is packed
before the adapter is attached, because packing would pack the adapter too. Compiled blocks hold plain arithmetic, so
checkpointing is put around them; weights are moved by hooks around both, when everything frozen is known. Routing hooks
come last, so that they stand outside whatever the steps before did to a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simpletuner.models import assistant, attention, checkpointing, compiling, offload
from simpletuner.models.adapters.adapter import AdapterFile
from simpletuner.models.adapters.merging import BaseAdapter, merge
from simpletuner.models.assistant import Assistant
from simpletuner.models.checkpointing import Recompute
from simpletuner.models.compiling import Compilation
from simpletuner.models.controlled import ControlWeights
from simpletuner.models.offload import Offload
from simpletuner.models.precision import PRECISIONS
from simpletuner.models.tread import Route, TokenRouter
from simpletuner.models.whole import Whole

if TYPE_CHECKING:
    import torch
    from torch import nn

    from simpletuner.models.adapters.adapter import AdapterPlan
    from simpletuner.models.family import Controlled, Denoiser
    from simpletuner.models.trained import Trained


@dataclass(frozen=True)
class Assembly:
    """What is done to the base network before training."""

    precision: str
    pack_on: torch.device | None
    """Where weights are packed, unless where they are."""
    adapter: AdapterPlan | None
    """What is put on the network to be trained; without it, the weights of the network themselves are."""
    adapter_dtype: torch.dtype
    device: torch.device
    """Where the network will compute."""
    routes: Sequence[Route]
    seed: int
    base_adapters: Sequence[BaseAdapter] = ()
    recompute: Recompute | None = None
    compilation: Compilation | None = None
    offload: Offload | None = None
    attention: str = "diffusers"
    joins_projections: bool = False
    assistant: Assistant | None = None
    dtype: torch.dtype | None = None
    """Precision of the assistant and of a whole network as the result; that of what is trained unless given."""
    control: Callable[[Denoiser], Controlled] | None = None
    """Puts a ControlNet beside the network, which is trained instead of it."""


@dataclass(frozen=True)
class Assembled:
    """What was put on the network and is needed while training."""

    trained: Trained
    router: TokenRouter | None
    """Present when there are routes."""
    denoiser: Denoiser
    """What is asked for predictions: the one that was given, or with a ControlNet both together."""


def assemble(denoiser: Denoiser, plan: Assembly) -> Assembled:
    """Change the network in place."""
    module, blocks = denoiser.module, denoiser.blocks
    merge(module, plan.base_adapters)
    if plan.joins_projections:
        from simpletuner.models.fusing import fuse  # it defines layers, which need torch

        fuse(module)
    PRECISIONS[plan.precision](module, blocks, plan.pack_on)
    if plan.assistant is not None:
        assistant.attach(module, plan.assistant, plan.dtype or plan.adapter_dtype)
    control = plan.control(denoiser) if plan.control else None
    trained = _trained(module, plan) if control is None else _beside(control, plan)
    _spare(module, blocks, plan)
    return Assembled(trained, TokenRouter(blocks, plan.routes) if plan.routes else None, control or denoiser)


def _trained(module: Any, plan: Assembly) -> Trained:  # a diffusers model: it knows its own config
    """An adapter on the frozen network, or the network."""
    if plan.adapter is not None:
        return AdapterFile(plan.adapter.attach(module, plan.adapter_dtype, plan.seed))
    module.requires_grad_(True)
    return Whole(module, dtype=plan.dtype)


def _beside(control: Controlled, plan: Assembly) -> Trained:
    """The same for a ControlNet; all of it stays on the device, whatever is moved of the network beside it."""
    module: Any = control.control
    if plan.adapter is not None:
        trained: Trained = AdapterFile(plan.adapter.attach(module, plan.adapter_dtype, plan.seed))
    else:
        module.requires_grad_(True)
        trained = ControlWeights(Whole(module, name="controlnet", dtype=plan.dtype), control)
    _spare(module, control.control_blocks, replace(plan, offload=None))
    return trained


def _spare(module: nn.Module, blocks: Sequence[nn.Module], plan: Assembly) -> None:
    """Trade memory and time as the plan says."""
    attention.use(module, plan.attention, plan.device)
    if plan.compilation:
        compiling.enable(blocks, plan.compilation)
    if plan.recompute:
        checkpointing.enable(blocks, plan.recompute)
    if plan.offload:
        offload.attach(module, blocks, plan.offload, plan.device)
