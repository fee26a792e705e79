"""Pictures that FLUX.1 Kontext looks at: further tokens behind those of the image, each with a place of its own.

The first number of a token's place is 1 for references and 0 for everything else. Several references lie side by side,
so that no two tokens have the same place. References carry no noise: their tokens are told the time 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
    from torch import Tensor

    Rotary = tuple[Tensor, Tensor]

STILL = "still_embedding"
"""The name under which blocks are given the embedding of time 0."""


def offsets(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where each reference begins, as row and column, for references of these heights and widths in tokens.

    The next one goes to the right or below, wherever the whole remains shorter.
    """
    down = right = 0
    found = []
    for height, width in sizes:
        place = (0, right) if height + down > width + right else (down, 0)
        found.append(place)
        down, right = max(down, place[0] + height), max(right, place[1] + width)
    return found


def positions(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """The places of all tokens of references of these heights and widths in tokens, with shape (tokens, 3)."""
    import torch

    return torch.cat([_grid(size, place, like) for size, place in zip(sizes, offsets(sizes), strict=True)])


def _grid(size: tuple[int, int], place: tuple[int, int], like: Tensor) -> torch.Tensor:
    import torch

    rows, columns = (
        torch.arange(first, first + length, device=like.device, dtype=like.dtype)
        for first, length in zip(place, size, strict=True)
    )
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.ones_like(row), row, column], dim=-1).reshape(-1, 3)


@dataclass(frozen=True)
class _Given:
    """What a block is given."""

    image: Tensor
    """Tokens of the image and of the references, with shape (batch, tokens, width)."""
    words: Tensor
    """Those of the prompt, with shape (batch, words, width)."""
    times: tuple[Tensor, Tensor]
    """The embedding of the image's time and that of time 0, with shape (batch, width) each."""
    rotary: Rotary
    """Cosines and sines of all tokens, those of the prompt first, with shape (words + tokens, head) each."""
    others: Mapping[str, Any]
    """What else attention takes."""


def give_each_its_time(module: FluxTransformer2DModel) -> None:
    """Change the blocks so that references are told time 0; without references they compute what they did."""
    for double in module.transformer_blocks:
        double.forward = partial(_forward, double.forward, partial(_double, double))
    for single in module.single_transformer_blocks:
        single.forward = partial(_forward, single.forward, partial(_single, single))


def _forward(
    stock: Any,  # the block's own forward
    changed: Callable[[_Given], tuple[Tensor, Tensor]],
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    temb: Tensor,
    image_rotary_emb: Rotary,
    joint_attention_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    others = dict(joint_attention_kwargs or {})
    still = others.pop(STILL, None)
    if still is not None:
        return changed(_Given(hidden_states, encoder_hidden_states, (temb, still), image_rotary_emb, others))
    found: tuple[Tensor, Tensor] = stock(
        hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs
    )
    return found


def _double(block: FluxTransformerBlock, given: _Given) -> tuple[Tensor, Tensor]:
    image, words = given.image, given.words
    where = _are_references(given.rotary)[words.shape[1] :]
    shift, scale, gate, late_shift, late_scale, late_gate = _chosen(block.norm1, given.times, where, parts=6)
    text, *text_steps = block.norm1_context(words, emb=given.times[0])
    text_gate, text_shift, text_scale, late_text_gate = (one[:, None] for one in text_steps)
    seen, text_seen = block.attn(
        hidden_states=block.norm1.norm(image) * (1 + scale) + shift,
        encoder_hidden_states=text,
        image_rotary_emb=given.rotary,
        **given.others,
    )
    image = image + gate * seen
    image = image + late_gate * block.ff(block.norm2(image) * (1 + late_scale) + late_shift)
    words = words + text_gate * text_seen
    changed = block.norm2_context(words) * (1 + text_scale) + text_shift
    return words + late_text_gate * block.ff_context(changed), image


def _single(block: FluxSingleTransformerBlock, given: _Given) -> tuple[Tensor, Tensor]:
    import torch

    tokens = torch.cat([given.words, given.image], dim=1)
    shift, scale, gate = _chosen(block.norm, given.times, _are_references(given.rotary), parts=3)
    changed = block.norm.norm(tokens) * (1 + scale) + shift
    seen = block.attn(hidden_states=changed, image_rotary_emb=given.rotary, **given.others)
    both = torch.cat([seen, block.act_mlp(block.proj_mlp(changed))], dim=2)
    tokens = tokens + gate * block.proj_out(both)
    length = given.words.shape[1]
    return tokens[:, :length], tokens[:, length:]


def _are_references(rotary: Rotary) -> Tensor:
    """Which tokens belong to references: the slowest pair of the first axis turns by the first number of the place.

    Asked of the table, and not counted, because routing takes tokens out of it.
    """
    _, sine = rotary
    return sine[:, 0] != 0


def _chosen(norm: Any, times: tuple[Tensor, Tensor], where: Tensor, *, parts: int) -> Sequence[Tensor]:
    """Shifts, scales and gates of every token, each for its own time."""
    import torch

    both = [norm.linear(norm.silu(one)).chunk(parts, dim=1) for one in times]
    pairs = zip(*both, strict=True)
    return [torch.where(where[:, None], of_still[:, None], of_moving[:, None]) for of_moving, of_still in pairs]
