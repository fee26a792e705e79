"""How exactly numbers are kept and computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from simpletuner.models.precision import PRECISIONS
from simpletuner.schema import IfChanged, NoEffect, NotYet, Section, TextList, words

_NO_SDNQ = NotYet("use base_model_precision int8-quanto, int4-quanto or int2-quanto")
_ONLY_TWO = NoEffect("FLUX has two text encoders")


MIXED_PRECISIONS = words(
    "mixed precision",
    {
        "bf16": "Computes in bf16: the usual choice on any recent card.",
        "no": "Computes in float32: for processors and for comparing results.",
    },
    later={"fp16": "use bf16", "fp8": "use bf16"},
)
DTYPES = words(
    "precision", {"bf16": "16 bits with the range of float32.", "fp32": "32 bits."}, later={"fp16": "use bf16"}
)
QUANTIZE_VIA = words(
    "place to quantise",
    {
        "cpu": "The processor packs the weights, in main memory.",
        "accelerator": "The card packs the weights, a layer at a time, so that it needs room for one layer only.",
        "pipeline": "As accelerator; layers are packed while they are loaded, whatever is set here.",
    },
)


class Precision(Section):
    """How exactly numbers are kept and computed."""

    if_changed: ClassVar[IfChanged] = IfChanged.TOLD

    mixed_precision: Annotated[str, MIXED_PRECISIONS] = "bf16"
    """The precision of arithmetic."""
    base_model_precision: Annotated[str, PRECISIONS] = "no_change"
    """How the frozen transformer is kept in memory: packed weights let larger models fit."""
    text_encoder_1_precision: Annotated[str, PRECISIONS] = "no_change"
    """How the CLIP text encoder is kept in memory."""
    text_encoder_2_precision: Annotated[str, PRECISIONS] = "no_change"
    """How the T5 text encoder is kept in memory."""
    text_encoder_3_precision: Annotated[str, _ONLY_TWO] = "no_change"
    """How a third text encoder is kept in memory, which other model families have."""
    text_encoder_4_precision: Annotated[str, _ONLY_TWO] = "no_change"
    """How a fourth text encoder is kept in memory, which other model families have."""
    base_model_default_dtype: Annotated[
        str, DTYPES, NoEffect("what is not packed has the precision of mixed_precision")
    ] = "bf16"
    """The precision of those weights that are not packed."""
    quantize_via: Annotated[str, QUANTIZE_VIA, IfChanged.FINE] = "accelerator"
    """Where weights are packed before they are used; without a card, the processor does it."""
    quantization_config: Annotated[Mapping[str, Any] | str | None, NotYet("use base_model_precision")] = None
    """How weights are packed, in the words of diffusers' own settings."""
    quantize_activations: bool = False
    """Packs what flows between the layers of the transformer too, for speed: makes int8-quanto int8-matmul."""
    vae_dtype: Annotated[str, DTYPES] = "bf16"
    """The precision of the image encoder."""
    disable_tf32: Annotated[bool, NoEffect("float32 arithmetic is never shortened to TF32")] = False
    """Keeps float32 arithmetic exact on NVIDIA cards."""
    sdnq_weights_dtype: Annotated[str | None, _NO_SDNQ] = None
    """The format in which the library SDNQ packs weights."""
    sdnq_group_size: Annotated[int | None, _NO_SDNQ] = None
    """How many weights share one scale when SDNQ packs them."""
    sdnq_use_svd: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ keep the largest part of each weight matrix exact."""
    sdnq_svd_rank: Annotated[int | None, _NO_SDNQ] = None
    """How much of a weight matrix SDNQ keeps exact."""
    sdnq_svd_steps: Annotated[int | None, _NO_SDNQ] = None
    """How long SDNQ looks for the part that it keeps exact."""
    sdnq_use_hadamard: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ rotate weights before it packs them, so that outliers cost less."""
    sdnq_hadamard_group_size: Annotated[int | None, _NO_SDNQ] = None
    """How many weights SDNQ rotates together."""
    sdnq_compile_mode: Annotated[str | None, _NO_SDNQ] = None
    """How SDNQ compiles its unpacking."""
    sdnq_quantized_matmul_dtype: Annotated[str | None, _NO_SDNQ] = None
    """The format in which SDNQ multiplies packed weights."""
    sdnq_use_quantized_matmul: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ multiply packed weights without unpacking them."""
    sdnq_use_static_quantization: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ pack weights once and not anew for each use."""
    sdnq_use_stochastic_rounding: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ round at random, so that it is right on average."""
    sdnq_dequantize_fp32: Annotated[bool | None, _NO_SDNQ] = None
    """Lets SDNQ unpack weights in 32 bits."""
    sdnq_modules_to_not_convert: Annotated[TextList | None, _NO_SDNQ] = None
    """Names of layers that SDNQ does not pack."""
    sdnq_modules_to_not_use_matmul: Annotated[TextList | None, _NO_SDNQ] = None
    """Names of layers whose packed weights SDNQ always unpacks."""
    sdnq_modules_dtype_dict: Annotated[Mapping[str, Any] | str | None, _NO_SDNQ] = None
    """Other formats for some layers, for SDNQ."""
    sdnq_modules_quant_config: Annotated[Mapping[str, Any] | str | None, _NO_SDNQ] = None
    """Other settings for some layers, for SDNQ."""
