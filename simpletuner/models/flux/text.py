"""Prompts to conditioning: CLIP-L gives one vector for the whole prompt, T5 one vector for each token.

FLUX.1 was trained with padding tokens taking part in attention, so prompts are padded to the full length, and what T5
answers at the padding is kept. With the padding set to zero, as some bases were trained, nothing is left there that
would have to be kept: a cache then holds the real length alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from simpletuner.models.flux.loading import load_clip, load_t5, load_tokenizers
from simpletuner.models.precision import packing, workplace
from simpletuner.models.sources import loading

if TYPE_CHECKING:
    from diffusers import FluxPipeline
    from torch import Tensor

    from simpletuner.models.family import Compute, Conditioning, TextEncoder, Weights
    from simpletuner.models.streaming import Pack

UNMODIFIED, ZERO = "unmodified", "zero"
"""What stands behind the end of a prompt."""


@contextmanager
def open_encoders(
    weights: Weights,
    precisions: Sequence[str],
    max_length: int | None,
    compute: Compute,
    *,
    padding: str = UNMODIFIED,
    clip: str | None = None,
    t5: str | None = None,
    pack_via: str = "cpu",
) -> Iterator[TextEncoder]:
    """Both text encoders and tokenizers, in memory only inside the ``with``.

    Args:
        weights: Where they come from.
        precisions: One name for CLIP and one for T5.
        max_length: How many tokens of a prompt count; what the tokenizer says unless given.
        compute: Where they run, and in which precision.
        padding: `unmodified` keeps what T5 answers behind the end of a prompt, `zero` puts zeros there.
        clip: Where CLIP comes from, when not from the base.
        t5: Where T5 comes from, when not from the base.
        pack_via: Where weights are packed: a word of `quantize_via`.
    """
    packs = [packing(precision, workplace(pack_via, compute.device)) for precision in precisions]
    pipeline = _load(weights, compute, (clip or weights.base, packs[0]), (t5 or weights.base, packs[1]))
    length = max_length or pipeline.tokenizer_2.model_max_length

    def encode(prompts: Sequence[str]) -> Sequence[Conditioning]:
        import torch

        with torch.no_grad():
            tokens, pooled, _ = pipeline.encode_prompt(
                list(prompts), None, device=compute.device, max_sequence_length=length
            )
        masks = _masks(pipeline, prompts, length)
        tokens, pooled = tokens.to("cpu", torch.bfloat16), pooled.to("cpu", torch.bfloat16)
        if padding == ZERO:
            # Not a product with the mask: that would leave negative zeros, and make NaN of an infinity.
            tokens = torch.where(masks[:, :, None], tokens, tokens.new_zeros(()))
        return [
            {"prompt_embeds": one, "pooled_prompt_embeds": vector, "prompt_mask": mask}
            for one, vector, mask in zip(tokens, pooled, masks, strict=True)
        ]

    yield encode


def _masks(pipeline: FluxPipeline, prompts: Sequence[str], length: int) -> Tensor:
    """Which tokens are words and which are padding, with shape (prompts, length)."""
    tokenized = pipeline.tokenizer_2(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    mask: Tensor = tokenized.attention_mask.bool()
    return mask


def _load(weights: Weights, compute: Compute, clip: tuple[str, Pack], t5: tuple[str, Pack]) -> FluxPipeline:
    """The encoders from their places, each packed in its own way, as the pipeline that knows how to use them."""
    from diffusers import FluxPipeline

    with loading("The text encoders", clip[0]):
        tokenizer, tokenizer_2 = load_tokenizers(weights.base, weights.revision)
        clip_encoder = load_clip(clip[0], weights, compute.dtype, clip[1])
    with loading("The text encoders", t5[0]):
        t5_encoder = load_t5(t5[0], weights, compute.dtype, t5[1])
    return FluxPipeline(
        scheduler=None,
        vae=None,
        transformer=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        text_encoder=clip_encoder.to(compute.device),
        text_encoder_2=t5_encoder.to(compute.device),
    )
