"""LoRA files of all programs: which one a file comes from, how to read it, and how to write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats import comfyui, diffusers, kohya, onetrainer, xlabs
from simpletuner.models.adapters.formats.keys import layers_of, refuse_other_kinds
from simpletuner.models.adapters.formats.names import Place
from simpletuner.models.adapters.formats.neutral import Lora
from simpletuner.schema import Choice

if TYPE_CHECKING:
    from torch import Tensor


class Reader(Protocol):
    """A form of LoRA files that can be read; each is a small module of this folder."""

    __doc__: str | None

    def place(self, layer: str) -> Place | None:
        """Where a layer of a file in this format belongs; nothing when the format has no such name."""

    def read(self, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Lora:
        """The adapter in a file of this format."""


class Format(Reader, Protocol):
    """A form of LoRA files that can be read and written."""

    def write(self, lora: Lora) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors of a file and what its header says about the network."""


FORMATS: Choice[Format] = Choice("LoRA format", {"diffusers": diffusers, "kohya": kohya, "comfyui": comfyui})
"""The formats that are written."""

READERS: Choice[Reader] = Choice("LoRA format", {**FORMATS, "xlabs": xlabs, "onetrainer": onetrainer})
"""The formats that are read."""


def detect(keys: Iterable[str]) -> str:
    """The format of a file, told from the names of its tensors.

    Raises:
        ModelError: No layer in it has a name of any known format.
    """
    layers = layers_of(keys)
    known = {name: sum(reader.place(layer) is not None for layer in layers) for name, reader in READERS.items()}
    best = max(known, key=lambda name: known[name])
    if not known[best]:
        shown = f"its first layer is '{layers[0]}'" if layers else "it has no LoRA matrices"
        raise ModelError(f"it is no LoRA for Flux: {shown}. The formats are {', '.join(READERS)}.")
    return best


def decode(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Lora:
    """The adapter that the tensors of a file hold, whatever program wrote them."""
    refuse_other_kinds(tensors)
    return READERS[detect(tensors)].read(tensors, header)
