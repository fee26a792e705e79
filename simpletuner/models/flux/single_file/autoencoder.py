"""The autoencoder of FLUX.1 from one file, in the names of Black Forest Labs or those of diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simpletuner.errors import ModelError
from simpletuner.models.flux.single_file import bundled
from simpletuner.models.flux.single_file.parts import AUTOENCODER, Form, part_of, scaled
from simpletuner.models.streaming import Piece, Pieces
from simpletuner.models.weight_files import numbers


def pieces(path: Path) -> dict[str, Piece]:
    """Where the weights of the autoencoder are, under the names of diffusers.

    Raises:
        ModelError: The file holds no autoencoder.
    """
    found = scaled(part_of(path, AUTOENCODER))
    if any(name.startswith("encoder.down_blocks.") for name in found):
        return found
    levels = len(numbers(iter(found), "decoder.up."))
    return {_renamed(name, levels): _flattened(name, piece) for name, piece in found.items()}


def shape(found: Pieces, path: Path) -> dict[str, Any]:
    """The config of the autoencoder; its scale and shift are those of FLUX.1, which weights do not tell.

    Raises:
        ModelError: Its latents are not those of FLUX.1.
    """
    channels = found["decoder.conv_in.weight"].shape[1]
    if channels != 16 or "quant_conv.weight" in found:
        raise ModelError(
            f"{path} is an autoencoder with {channels} channels, of another model. Use FLUX.1's, which has 16."
        )
    levels = numbers(iter(found), "encoder.down_blocks.")
    widths = [found[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in levels]
    return {
        **bundled.config("vae"),
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "block_out_channels": widths,
        "layers_per_block": len(numbers(iter(found), "encoder.down_blocks.0.resnets.")),
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in found,
    }


def _renamed(name: str, levels: int) -> str:
    """The levels of the decoder are counted from the other end in diffusers."""
    name = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up_blocks.{levels - 1 - int(found[1])}.", name)
    for pattern, replacement in _NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def _flattened(name: str, piece: Piece) -> Piece:
    """The attention of the file is made of convolutions over one pixel, that of diffusers of linear layers."""
    is_pointwise = ".attn_1." in name and len(piece.shape) == 4
    return replace(piece, is_pointwise=True) if is_pointwise else piece


_NAMES: Mapping[str, str] = {
    r"^encoder\.down\.": "encoder.down_blocks.",
    r"(blocks\.\d+)\.block\.": r"\1.resnets.",
    r"\.downsample\.": ".downsamplers.0.",
    r"\.upsample\.": ".upsamplers.0.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.norm\.": ".mid_block.attentions.0.group_norm.",
    r"\.mid\.attn_1\.([qkv])\.": r".mid_block.attentions.0.to_\1.",
    r"\.mid\.attn_1\.proj_out\.": ".mid_block.attentions.0.to_out.0.",
    r"coder\.norm_out\.": "coder.conv_norm_out.",
}

FORM = Form(pieces, shape)
