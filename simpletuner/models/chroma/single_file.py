"""The transformer of Chroma from one file: the names of FLUX.1, and a network of its own instead of the modulations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simpletuner.errors import ModelError
from simpletuner.models.flux.single_file.parts import CHROMA, TRANSFORMER, Form, part_of, scaled
from simpletuner.models.flux.single_file.transformer import complete, count, renamed, trunk
from simpletuner.models.streaming import Piece, Pieces


def pieces(path: Path) -> dict[str, Piece]:
    """Where the weights of the transformer are, under the names of diffusers.

    Raises:
        ModelError: The file holds no transformer of Chroma, or tensors that none has.
    """
    found = scaled(part_of(path, TRANSFORMER, own_sign=CHROMA))
    if not any(name.startswith(CHROMA) for name in found):
        raise ModelError(f"{path} is a transformer of FLUX.1. Set model_family to flux, or use a file of Chroma.")
    if "x_embedder.weight" in found:
        return found
    trunk = {name: piece for name, piece in found.items() if not name.startswith(CHROMA)}
    return {**renamed(trunk, path), **dict(_of_guidance(found))}


def shape(found: Pieces, path: Path) -> dict[str, Any]:
    """The config of the transformer, read off its weights.

    Raises:
        ModelError: What decides the shape is missing.
    """
    with complete(path, "Chroma"):
        hidden, channels = found[f"{CHROMA}in_proj.weight"].shape
        return {
            **trunk(found, path),
            "approximator_num_channels": channels,
            "approximator_hidden_dim": hidden,
            "approximator_layers": count(found, f"{CHROMA}layers.", path),
        }


def _of_guidance(found: Pieces) -> Iterator[tuple[str, Piece]]:
    for name, piece in found.items():
        if name.startswith(CHROMA):
            layer, _, kind = name.rpartition(".")
            first, _, last = layer.rpartition(".")
            yield f"{first}.{_LAYERS.get(last, last)}.{'weight' if kind == 'scale' else kind}", piece


_LAYERS = {"in_layer": "linear_1", "out_layer": "linear_2"}

FORM = Form(pieces, shape)
