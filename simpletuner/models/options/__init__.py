"""What a config says about the model: weights, precision, adapter, memory, token routing. Imports no torch."""

from __future__ import annotations

from simpletuner.models.options.adapter import LORA_FORMATS, LORA_INITS, LORA_MODES, LORA_TYPES, Adapter
from simpletuner.models.options.memory import ATTENTIONS, Memory
from simpletuner.models.options.model import MODEL_TYPES, Model
from simpletuner.models.options.precision import DTYPES, MIXED_PRECISIONS, QUANTIZE_VIA, Precision
from simpletuner.models.options.routing import Routing, TreadConfig, TreadRoute

__all__ = [
    "ATTENTIONS",
    "Adapter",
    "DTYPES",
    "LORA_FORMATS",
    "LORA_INITS",
    "LORA_MODES",
    "LORA_TYPES",
    "MIXED_PRECISIONS",
    "MODEL_TYPES",
    "Memory",
    "Model",
    "Precision",
    "QUANTIZE_VIA",
    "Routing",
    "TreadConfig",
    "TreadRoute",
]
