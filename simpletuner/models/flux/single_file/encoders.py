"""The text encoders of FLUX.1 from one file each, or from one file with other parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simpletuner.errors import ModelError
from simpletuner.models.flux.single_file import bundled
from simpletuner.models.flux.single_file.parts import CLIP, T5, Form, part_of, scaled
from simpletuner.models.streaming import Piece, Pieces
from simpletuner.models.weight_files import numbers

_CLIP_EXTRAS = ("text_projection.weight", "logit_scale", "embeddings.position_ids")
"""What files of CLIP have besides, for comparing texts with pictures."""
_T5_EXTRAS = ("encoder.embed_tokens.weight", "logit_scale", "lm_head.weight", "spiece_model")
"""What files of T5 have besides: the embeddings once more, a head, the vocabulary."""


def clip_pieces(path: Path) -> dict[str, Piece]:
    """Where the weights of CLIP's text encoder are, without the level ``text_model`` that some names have."""
    found = scaled(part_of(path, CLIP))
    return clip_names(found)


def clip_names(found: Pieces) -> dict[str, Piece]:
    """The names of any version of transformers, without the level ``text_model`` and without what is not used."""
    short = {name.removeprefix("text_model."): piece for name, piece in found.items()}
    return {name: piece for name, piece in short.items() if name not in _CLIP_EXTRAS}


def t5_pieces(path: Path) -> dict[str, Piece]:
    """Where the weights of T5's encoder are."""
    return t5_names(scaled(part_of(path, T5)))


def t5_names(found: Pieces) -> dict[str, Piece]:
    """The weights of the encoder alone; its embeddings may have either of two names."""
    kept = {name: piece for name, piece in found.items() if not name.startswith("decoder.") and name not in _T5_EXTRAS}
    if "shared.weight" not in kept and "encoder.embed_tokens.weight" in found:
        kept["shared.weight"] = found["encoder.embed_tokens.weight"]
    return kept


def clip_shape(found: Pieces, path: Path) -> dict[str, Any]:
    """The config of CLIP's text encoder, as far as weights tell; heads have 64 numbers in every CLIP."""
    vocabulary, width = _shape(found, "embeddings.token_embedding.weight", path)
    return {
        **bundled.config("text_encoder"),
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(found, "encoder.layers.0.mlp.fc1.weight", path)[0],
        "num_hidden_layers": len(numbers(iter(found), "encoder.layers.")),
        "num_attention_heads": max(width // 64, 1),
        "max_position_embeddings": _shape(found, "embeddings.position_embedding.weight", path)[0],
    }


def t5_shape(found: Pieces, path: Path) -> dict[str, Any]:
    """The config of T5's encoder, as far as weights tell."""
    vocabulary, width = _shape(found, "shared.weight", path)
    first = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = _shape(found, f"{first}.relative_attention_bias.weight", path)
    return {
        **bundled.config("text_encoder_2"),
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": _shape(found, f"{first}.q.weight", path)[0] // heads,
        "d_ff": _shape(found, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", path)[0],
        "num_layers": len(numbers(iter(found), "encoder.block.")),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }


def _shape(found: Mapping[str, Piece], name: str, path: Path) -> tuple[int, ...]:
    if name not in found:
        raise ModelError(f"{path} is no whole text encoder of FLUX.1: it lacks {name}. Use a complete file.")
    return found[name].shape


CLIP_FORM = Form(clip_pieces, clip_shape, clip_names)
T5_FORM = Form(t5_pieces, t5_shape, t5_names)
