"""The transformer of FLUX.1 from one file: its shape from names and sizes, and where each tensor belongs.

Files of Black Forest Labs keep queries, keys and values in one tensor; diffusers has one for each, so every piece is
some rows of a tensor in the file, and only these rows are read for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simpletuner.errors import ModelError
from simpletuner.models.flux.single_file.parts import TRANSFORMER, Form, part_of, scaled
from simpletuner.models.streaming import Piece, Pieces
from simpletuner.models.weight_files import numbers


def pieces(path: Path) -> dict[str, Piece]:
    """Where the weights of the transformer are, under the names of diffusers.

    Raises:
        ModelError: The file holds no transformer of FLUX.1, or tensors that none has.
    """
    found = scaled(part_of(path, TRANSFORMER))
    return found if "x_embedder.weight" in found else renamed(found, path)


def renamed(found: Pieces, path: Path) -> dict[str, Piece]:
    """The names that diffusers has for those of Black Forest Labs."""
    inner = found["img_in.weight"].shape[0] if "img_in.weight" in found else 0
    return dict(pair for name, piece in found.items() for pair in _renamed(name, piece, inner, path))


def shape(found: Pieces, path: Path) -> dict[str, Any]:
    """The config of the transformer, read off its weights: pruned models and those with more inputs are told apart.

    Raises:
        ModelError: What decides the shape is missing.
    """
    with complete(path, "FLUX.1"):
        return {
            **trunk(found, path),
            "pooled_projection_dim": found["time_text_embed.text_embedder.linear_1.weight"].shape[1],
            "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in found,
        }


def trunk(found: Pieces, path: Path) -> dict[str, Any]:
    """What the configs of FLUX.1 and of models made from it have in common."""
    head = found["transformer_blocks.0.attn.norm_q.weight"].shape[0]
    inner, channels = found["x_embedder.weight"].shape
    return {
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": found["proj_out.weight"].shape[0],
        "num_layers": count(found, "transformer_blocks.", path),
        "num_single_layers": count(found, "single_transformer_blocks.", path),
        "attention_head_dim": head,
        "num_attention_heads": inner // head,
        "joint_attention_dim": found["context_embedder.weight"].shape[1],
        "axes_dims_rope": _axes(head),
    }


@contextmanager
def complete(path: Path, family: str) -> Iterator[None]:
    """A tensor that is looked up in vain means that the file is not whole."""
    try:
        yield
    except KeyError as error:
        raise ModelError(
            f"{path} is no whole transformer of {family}: it has no {error}. Use a complete file."
        ) from error


def _axes(head: int) -> tuple[int, int, int]:
    """How the numbers of a head are shared among the three axes of a position; weights do not tell."""
    # All of FLUX.1 has heads of 128. Others are miniatures, for which a quarter for the first axis is the custom.
    return (16, 56, 56) if head == 128 else (head // 4, head * 3 // 8, head * 3 // 8)


def count(found: Pieces, prefix: str, path: Path) -> int:
    """How many parts of the network are numbered behind a prefix."""
    there = numbers(iter(found), prefix)
    if there != list(range(len(there))):
        gap = next(number for number in range(len(there)) if number not in there)
        raise ModelError(f"{path} has a gap in its blocks: there is no {prefix}{gap}. Use a complete file.")
    return len(there)


def _renamed(name: str, piece: Piece, inner: int, path: Path) -> Iterator[tuple[str, Piece]]:
    """What one tensor of the file is to diffusers."""
    layer, _, kind = name.rpartition(".")
    kind = "weight" if kind == "scale" else kind
    first, _, rest = layer.partition(".")
    if layer in _OUTSIDE:
        yield f"{_OUTSIDE[layer]}.{kind}", _turned(piece) if layer == _SWAPPED else piece
        return
    number, _, inside = rest.partition(".")
    prefix, places = _BLOCKS.get(first, ("", {}))
    if inside not in places or not number.isdigit():
        raise ModelError(
            f"{path} has a tensor that no FLUX.1 has: {name}. Use a file of FLUX.1, or set model_family to its family."
        )
    sizes = _rows(places[inside], piece.shape[0], inner)
    for target, rows in zip(places[inside], sizes, strict=True):
        yield f"{prefix}.{number}.{target}.{kind}", _cut(piece, rows) if len(sizes) > 1 else piece


def _rows(targets: tuple[str, ...], height: int, inner: int) -> list[slice]:
    """Each but the last has as many rows as the network is wide."""
    ends = [inner * number for number in range(len(targets))]
    return [slice(*pair) for pair in zip(ends, [*ends[1:], height], strict=True)]


def _cut(piece: Piece, rows: slice) -> Piece:
    return Piece(piece.entry, rows=rows, scale=piece.scale)


def _turned(piece: Piece) -> Piece:
    """BFL has shift before scale here, diffusers scale before shift."""
    return Piece(piece.entry, swaps_halves=True, scale=piece.scale)


_SWAPPED = "final_layer.adaLN_modulation.1"

_OUTSIDE: Mapping[str, str] = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    _SWAPPED: "norm_out.linear",
}

_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}

_SINGLE: Mapping[str, tuple[str, ...]] = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}

_BLOCKS: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {
    "double_blocks": ("transformer_blocks", _DOUBLE),
    "single_blocks": ("single_transformer_blocks", _SINGLE),
}

FORM = Form(pieces, shape)
