"""Prompts to conditioning: T5 alone, which sees no padding; the denoiser sees one padding token of each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from simpletuner.models import offload
from simpletuner.models.chroma.loading import load_t5, load_tokenizer
from simpletuner.models.flux.text import tokens_of
from simpletuner.models.precision import packing, workplace

if TYPE_CHECKING:
    from simpletuner.models.family import Compute, Conditioning, TextEncoder, TextSettings, Weights

LENGTH = 512
"""How many tokens of a prompt count, unless the config says something else."""


@contextmanager
def open_encoder(weights: Weights, settings: TextSettings, compute: Compute) -> Iterator[TextEncoder]:
    """The text encoder and its tokenizer, in memory only inside the ``with``."""
    tokenizer = load_tokenizer(weights)
    pack = packing(settings.precisions[0], workplace(settings.pack_via, compute.device))
    encoder = load_t5(weights, compute, pack)
    offload.settle(encoder, encoder.encoder.block, settings.offload, compute.device)
    length = settings.max_length or min(tokenizer.model_max_length, LENGTH)

    def encode(prompts: Sequence[str]) -> Sequence[Conditioning]:
        import torch

        ids, words = (one.to(compute.device) for one in tokens_of(tokenizer, prompts, length))
        with torch.no_grad():
            found = encoder(ids, attention_mask=words)[0].to("cpu", torch.bfloat16)
        # Words and the first padding token behind them, as Chroma was trained.
        seen = torch.arange(length)[None] <= words.sum(1).cpu()[:, None]
        return [{"prompt_embeds": one, "prompt_mask": mask} for one, mask in zip(found, seen, strict=True)]

    yield encode
