"""Which parts of FLUX.1 one file holds: a transformer, an autoencoder, text encoders, or several of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletuner.errors import ModelError
from simpletuner.models.streaming import Piece, Pieces
from simpletuner.models.weight_files import Contents, Entry, contents, under

TRANSFORMER, AUTOENCODER, CLIP, T5 = "transformer", "autoencoder", "CLIP text encoder", "T5 text encoder"

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    TRANSFORMER: ("model.diffusion_model.", "diffusion_model.", "transformer.", ""),
    AUTOENCODER: ("vae.", "first_stage_model.", ""),
    CLIP: ("text_encoders.clip_l.transformer.", "text_encoders.clip_l.", "clip_l.transformer.", "clip_l.", ""),
    T5: ("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.", "t5xxl.transformer.", "t5xxl.", ""),
}
"""In front of the names of a part, where a file has several; the empty one is for files with a single part."""

_SIGNS: Mapping[str, tuple[str, ...]] = {
    TRANSFORMER: ("double_blocks.0.img_attn.qkv.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
    AUTOENCODER: ("decoder.conv_in.weight",),
    CLIP: ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"),
    T5: ("encoder.block.0.layer.0.SelfAttention.q.weight",),
}
"""A tensor that each form of a part has, and nothing else."""

CHROMA = "distilled_guidance_layer."
"""What every transformer of Chroma has."""

_OTHERS: Mapping[str, str] = {
    CHROMA: "Chroma; set model_family to chroma",
    "double_stream_modulation": "FLUX.2, which is another family",
    "joint_blocks.": "Stable Diffusion 3",
    "input_blocks.": "Stable Diffusion 1, 2 or XL",
    "lora_": "an adapter and not a model; name it in init_lora",
    "quant_state.bitsandbytes": "a model packed by bitsandbytes; use the unpacked one and base_model_precision nf4-bnb",
}
"""What else people have, by a part of a name."""


def _as_they_are(found: Pieces) -> Pieces:
    return found


@dataclass(frozen=True)
class Form:
    """How one part is read."""

    pieces: Callable[[Path], Pieces]
    """Where its weights are in a single file, under the names of its network."""
    shape: Callable[[Pieces, Path], Mapping[str, Any]]
    """The config of the network, from its weights."""
    names: Callable[[Pieces], Pieces] = _as_they_are
    """The weights in a folder, under the same names."""

    def of(self, path: Path) -> tuple[Mapping[str, Any], Pieces]:
        """What a single file holds of it: the config, and where the weights are.

        Raises:
            ModelError: The file does not hold the part, or not all of it.
        """
        found = self.pieces(path)
        return self.shape(found, path), found


def parts_in(path: Path) -> frozenset[str]:
    """Which parts a file holds, from its header alone."""
    found = contents(path)
    return frozenset(part for part in _SIGNS if _prefix(found, part) is not None)


def part_of(path: Path, part: str, *, own_sign: str = "") -> Contents:
    """The tensors of one part, under the names that they have by themselves.

    Args:
        path: The file.
        part: One of the parts.
        own_sign: The sign in `_OTHERS` of the family that is asked for, where that is none of FLUX.1's.

    Raises:
        ModelError: The file does not hold it.
    """
    found = contents(path)
    prefix = _prefix(found, part)
    if (prefix is None or part == TRANSFORMER) and (other := _of_another_family(found, own_sign)):
        raise ModelError(f"{path} is no {part} of FLUX.1: it looks like {other}.")
    if prefix is None:
        has = ", ".join(sorted(parts_in(path))) or "nothing of FLUX.1"
        raise ModelError(f"{path} holds no {part}; it holds {has}. Name the file of the {part} as well.")
    return under(found, prefix)


def scaled(found: Contents) -> dict[str, Piece]:
    """The weights of a part; of fp8 weights that come with a factor, the factor belongs to the weight.

    Raises:
        ModelError: The weights are packed in a way that is not fp8.
    """
    _refuse_other_packing(found)
    return {name: Piece(entry, scale=_scale(found, name)) for name, entry in found.items() if not _is_note(name)}


def _prefix(found: Contents, part: str) -> str | None:
    for prefix in _PREFIXES[part]:
        if any(prefix + sign in found for sign in _SIGNS[part]):
            return prefix
    return None


def _of_another_family(found: Contents, own_sign: str) -> str | None:
    others = {sign: meaning for sign, meaning in _OTHERS.items() if sign != own_sign}
    return next((meaning for sign, meaning in others.items() if any(sign in name for name in found)), None)


def _scale(found: Contents, name: str) -> Entry | None:
    """ComfyUI has had two names for the factor."""
    layer = name.removesuffix(".weight")
    if layer == name:
        return None
    return found.get(f"{layer}.scale_weight") or found.get(f"{layer}.weight_scale")


def _is_note(name: str) -> bool:
    """Whether a tensor tells of weights and is none: factors of weights and of inputs, and marks."""
    return name.rpartition(".")[2] in _NOTES


_NOTES = ("scaled_fp8", "scale_weight", "weight_scale", "scale_input", "input_scale", "comfy_quant")
_FP8 = ("float8_e4m3fn", "float8_e5m2")


def _refuse_other_packing(found: Contents) -> None:
    for name, entry in found.items():
        if name.endswith(".comfy_quant"):
            form = json.loads(bytes(entry.read().tolist())).get("format")
            if form not in _FP8:
                raise ModelError(f"{entry.file} is packed as {form}, which is not read here. Use it in bf16 or fp8.")
