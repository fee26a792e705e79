"""Every precision by its name: one function each, which changes a network in place.

The layers are our own, also under the names of libraries: the numbers are kept in the same bits. benchmarks/packing.py
compares them with optimum-quanto, and documentation/BENCHMARKS.md says what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from simpletuner.errors import ModelError
from simpletuner.models.precision.layers import pack
from simpletuner.schema import Choice

if TYPE_CHECKING:
    import torch
    from torch import nn


class Quantise(Protocol):
    """Packs the layers of a network."""

    def __call__(self, module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
        """Change `module` in place; the work is done on `device`, unless where the weights are."""


def no_change(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """Weights stay in the compute precision, usually bf16."""


def int8_quanto(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """Weights are stored as 8-bit integers: half the memory of bf16, a little slower."""
    from simpletuner.models.precision.forms import Int8

    pack(module, blocks, Int8(), device)


def nf4_bnb(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """Weights are stored as 4-bit NormalFloat of bitsandbytes: little more than a quarter of the memory of bf16."""
    from simpletuner.models.precision.normal import NormalFloat4

    if problem := missing_package("nf4-bnb"):
        raise ModelError(f"the precision {problem}")
    pack(module, blocks, NormalFloat4(), device)


def int8_matmul(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """As int8-quanto, and inputs are made 8-bit integers too, which cards multiply faster than bf16."""
    from simpletuner.models.precision.products import Int8Product

    pack(module, blocks, Int8Product(), device)


def int4_quanto(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """Weights are stored as 4-bit integers: little more than a quarter of the memory of bf16."""
    from simpletuner.models.precision.forms import Grouped

    pack(module, blocks, Grouped(4), device)


def int2_quanto(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """Weights are stored as 2-bit integers: a sixth of the memory of bf16, at a visible loss."""
    from simpletuner.models.precision.forms import Grouped

    pack(module, blocks, Grouped(2), device)


def fp8_quanto(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """Weights are stored as 8-bit floating point numbers with scales; int8-quanto takes as much and errs less."""
    from simpletuner.models.precision.forms import Float8

    pack(module, blocks, Float8(), device)


def fp8uz_quanto(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """As fp8-quanto, in the variant of 8-bit floating point numbers of AMD's cards."""
    import torch

    from simpletuner.models.precision.forms import Float8

    pack(module, blocks, Float8(torch.float8_e4m3fnuz), device)


def fp8_native(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
    """As fp8-quanto, and inputs are made 8-bit floating point numbers too, which cards since RTX 40 multiply faster."""
    from simpletuner.models.precision.products import Float8Product

    pack(module, blocks, Float8Product(), device)


_INT8 = "use int8-quanto"
_INT4 = "use int4-quanto"

PRECISIONS: Choice[Quantise] = Choice(
    "precision",
    {
        "no_change": no_change,
        "int8-quanto": int8_quanto,
        "nf4-bnb": nf4_bnb,
        "int8-matmul": int8_matmul,
        "int4-quanto": int4_quanto,
        "int2-quanto": int2_quanto,
        "fp8-quanto": fp8_quanto,
        "fp8uz-quanto": fp8uz_quanto,
        "fp8-native": fp8_native,
        "int8-torchao": int8_quanto,
        "int8dq-torchao": int8_matmul,
        "int4-torchao": int4_quanto,
        "fp8wo-torchao": fp8_quanto,
        "fp8-torchao": fp8_native,
    },
    later={
        "bf16": "use no_change, which keeps weights in mixed_precision, usually bf16",
        "int8dq-int4-torchao": _INT4,
        "fp8-int4-torchao": _INT4,
        "fp8-transformerengine": "use fp8-native",
        "int16-sdnq": "use no_change",
        "uint16-sdnq": "use no_change",
        "fp16-sdnq": "use no_change",
        "int8-sdnq": _INT8,
        "uint8-sdnq": _INT8,
        "fp8-sdnq": "use fp8-quanto",
        "int6-sdnq": _INT8,
        "int5-sdnq": _INT8,
        "uint5-sdnq": _INT8,
        "uint4-sdnq": _INT4,
        "uint3-sdnq": _INT4,
        "uint2-sdnq": "use int2-quanto",
    },
)

FASTER = {
    "int8-quanto": "int8-matmul",
    "int8-torchao": "int8dq-torchao",
    "fp8-quanto": "fp8-native",
    "fp8wo-torchao": "fp8-torchao",
}
"""The precisions that keep weights in the same form and pack inputs too."""


def packing(name: str, device: torch.device | None = None) -> Callable[[nn.Module], None]:
    """Packs one block, as the loaders ask for it when the block is complete; on `device`, unless where it is."""
    return lambda block: PRECISIONS[name](block, [block], device)


def workplace(via: str, device: torch.device) -> torch.device | None:
    """Where weights are packed, by the word of `quantize_via`; nothing means where they are."""
    return None if via == "cpu" else device


def kept(name: str, *, activations: bool) -> str:
    """The precision that is meant by a name and the wish to pack what flows between layers too."""
    return FASTER.get(name, name) if activations else name


def activation_problem(name: str, *, activations: bool) -> str | None:
    """Why what flows between layers cannot be packed with this precision, if so."""
    if not activations or name in FASTER or name in FASTER.values():
        return None
    return f"true does not go together with base_model_precision {name}; use {', '.join(FASTER)}, or leave it out"


def missing_package(name: str) -> str | None:
    """What to install for this precision, if its package is not there."""
    package, extra, instead = NEEDS.get(name, ("", "", ""))
    if not package or find_spec(package):
        return None
    return (
        f"'{name}' needs {package}, which is not installed; install it with: pip install 'simpletuner[{extra}]', "
        f"or use {instead}"
    )


NEEDS = {"nf4-bnb": ("bitsandbytes", "bnb", "int4-quanto")}
"""Precisions that need a package: its name, the extra that brings it, and what does without."""


def full_training_problem(name: str) -> str | None:
    """Why all weights cannot be trained when they are kept like this, if so."""
    if name == "no_change":
        return None
    return f"'{name}' packs the weights, and packed weights cannot be trained; use no_change, or train a LoRA"


def recipe(name: str) -> str:
    """What decides how weights are packed besides the weights: part of the name of what is kept on disk."""
    return f"{name}/{_EDITION}"


_EDITION = 1
"""Counts up when a precision packs the same weights into other bytes."""
