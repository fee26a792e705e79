"""Prompts to conditioning: CLIP-L gives one vector for the whole prompt, T5 one vector for each token.

FLUX.1 was trained with padding tokens taking part in attention, so prompts are padded to the full length and the
padding is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from simpletuner.models.precision import PRECISIONS
from simpletuner.models.sources import loading

if TYPE_CHECKING:
    from diffusers import FluxPipeline

    from simpletuner.models.family import Compute, Conditioning, TextEncoder, Weights


@contextmanager
def open_encoders(
    weights: Weights, precisions: Sequence[str], max_length: int | None, compute: Compute
) -> Iterator[TextEncoder]:
    """Both text encoders and tokenizers; `precisions` holds one name for CLIP and one for T5."""
    pipeline = _load(weights, precisions, compute)
    length = max_length or pipeline.tokenizer_2.model_max_length

    def encode(prompts: Sequence[str]) -> Sequence[Conditioning]:
        import torch

        with torch.no_grad():
            tokens, pooled, _ = pipeline.encode_prompt(
                list(prompts), None, device=compute.device, max_sequence_length=length
            )
        return [
            {"prompt_embeds": one.to("cpu", compute.dtype), "pooled_prompt_embeds": vector.to("cpu", compute.dtype)}
            for one, vector in zip(tokens, pooled, strict=True)
        ]

    yield encode


def _load(weights: Weights, precisions: Sequence[str], compute: Compute) -> FluxPipeline:
    from diffusers import FluxPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    with loading("The text encoders", weights.base):
        pipeline = FluxPipeline.from_pretrained(
            weights.base,
            transformer=None,
            vae=None,
            dtype=compute.dtype,
            revision=weights.revision,
            variant=weights.variant,
        )
    for encoder, precision in zip((pipeline.text_encoder, pipeline.text_encoder_2), precisions, strict=True):
        encoder.requires_grad_(False)
        encoder.eval()
        PRECISIONS[precision](encoder, [encoder])
        encoder.to(compute.device)
    return pipeline
