"""How the frozen weights are kept in memory: one function per precision, each changes a module in place.

The linear layers inside the blocks are packed, the modulation layers among them: they hold more than a quarter of all
weights of FLUX.1. Everything else (embedders, the last norm, the projection out) is small and sensitive, so it stays in
the compute precision. Which layers these are is decided by module, with `packable`, and not by patterns that a library
might read in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from simpletuner.schema import Choice

if TYPE_CHECKING:
    from torch import nn

Quantise = Callable[["nn.Module", Sequence["nn.Module"]], None]


def packable(module: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers inside the blocks, with their names in `module`."""
    from torch import nn

    inside = {id(part) for block in blocks for part in block.modules()}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and id(layer) in inside:
            yield name, layer


def no_change(module: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Weights stay in the compute precision, usually bf16."""


def int8_quanto(module: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Weights are stored as 8-bit integers by optimum-quanto: half the memory of bf16, a little slower."""
    from optimum.quanto import freeze, qint8, quantize

    quantize(module, weights=qint8, include=[name for name, _ in packable(module, blocks)])
    freeze(module)


def nf4_bnb(module: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Weights are stored as 4-bit NormalFloat by bitsandbytes: a quarter of the memory of bf16."""
    import bitsandbytes as bnb

    for name, layer in list(packable(module, blocks)):
        if name.endswith(".wo"):  # T5 converts what it feeds this layer to the precision of its weight
            continue
        packed = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=layer.weight.dtype,
            quant_type="nf4",
        )
        packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        packed.bias = layer.bias
        # On some processors, drawing would repack the weights into a form that cannot be trained through.
        packed.support_avx512bf16_for_cpu = False
        parent, _, attribute = name.rpartition(".")
        # Moving the layer to its device is what packs the weight.
        module.get_submodule(parent).register_module(attribute, packed.to(layer.weight.device))
    # Without this mark PEFT would put its plain layer around a packed one, which cannot be merged.
    module.is_loaded_in_4bit = True  # type: ignore[assignment]  # nn.Module types attributes as Tensor | Module


_INT8 = "use int8-quanto"
_NF4 = "use nf4-bnb"

PRECISIONS: Choice[Quantise] = Choice(
    "precision",
    {"no_change": no_change, "int8-quanto": int8_quanto, "nf4-bnb": nf4_bnb},
    later={
        "int4-quanto": _NF4,
        "int2-quanto": _NF4,
        "fp8-quanto": _INT8,
        "fp8uz-quanto": _INT8,
        "int8-torchao": _INT8,
        "int8dq-torchao": _INT8,
        "int8dq-int4-torchao": _NF4,
        "int4-torchao": _NF4,
        "fp8-torchao": _INT8,
        "fp8wo-torchao": _INT8,
        "fp8-int4-torchao": _NF4,
        "int8-sdnq": _INT8,
        "uint8-sdnq": _INT8,
        "int16-sdnq": "use no_change",
        "uint16-sdnq": "use no_change",
        "fp16-sdnq": "use no_change",
        "fp8-sdnq": _INT8,
        "int6-sdnq": _INT8,
        "int5-sdnq": _INT8,
        "uint5-sdnq": _INT8,
        "uint4-sdnq": _NF4,
        "uint3-sdnq": _NF4,
        "uint2-sdnq": _NF4,
        "fp8-native": _INT8,
        "fp8-transformerengine": _INT8,
    },
)
