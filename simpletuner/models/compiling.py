"""torch.compile for a network whose blocks have hooks: the arithmetic is compiled, the hooks stay outside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.schema import words

if TYPE_CHECKING:
    from torch import nn

COMPILERS = words(
    "compiler",
    {
        "no": "Nothing is compiled.",
        "inductor": "PyTorch's own compiler: the first steps take minutes, the others are faster.",
        "eager": "Follows the network without compiling it, to find what a compiler would stumble over.",
        "aot_eager": "The same, gradients included.",
        "cudagraphs": "Records what the card does and plays it again; for small networks.",
    },
    later=dict.fromkeys(
        (
            *("aot_ts_nvfuser", "nvprims_nvfuser", "ofi", "fx2trt", "onnxrt", "tensorrt", "ipex", "tvm"),
            *("aot_torchxla_trace_once", "torchxla_trace_once"),
        ),
        "use inductor",
    ),
)
EFFORTS = words(
    "compiler effort",
    {
        "default": "Compiles fast, and well enough.",
        "reduce-overhead": "Records what the card does and plays it again; needs more memory.",
        "max-autotune": "Tries many kernels and keeps the fastest; the start takes much longer.",
        "max-autotune-no-cudagraphs": "The same without recording.",
    },
)


@dataclass(frozen=True)
class Compilation:
    """How a network is compiled."""

    backend: str
    mode: str | None = None
    """Only inductor has any."""
    fullgraph: bool = False
    dynamic: bool | None = None
    """True for images of changing sizes, False for one size; left open, the compiler finds out."""


def missing_tool(backend: str, *, has_card: bool) -> str | None:
    """What to install for a compiler that is missing on this machine, if it is.

    Args:
        backend: A name of COMPILERS.
        has_card: Whether the network computes on a card, whose kernels are started by small programs in C.
    """
    if backend != "inductor":
        return None
    variable, names = ("CC", ("gcc", "clang", "cc")) if has_card else ("CXX", ("g++",))
    chosen = os.environ.get(variable)
    if any(shutil.which(name) for name in ([chosen] if chosen else names)):
        return None
    return (
        f"inductor writes programs for a compiler of {'C' if has_card else 'C++'}, and this machine has none; install "
        f"{names[0]}, or set {variable} to another one, or leave dynamo_backend out"
    )


def enable(blocks: Sequence[nn.Module], plan: Compilation) -> None:
    """Compile each block when it is first used: blocks repeat, so one is compiled for all, and little is left over.

    Call it after the adapter is attached, and before hooks and gradient checkpointing, which stay outside.
    """
    import torch

    for block in blocks:
        # Not `block.compile`, which would take the hooks into the compiled code.
        block.forward = torch.compile(
            block.forward, backend=plan.backend, mode=plan.mode, fullgraph=plan.fullgraph, dynamic=plan.dynamic
        )
