"""Prompts to conditioning: CLIP-L gives one vector for the whole prompt, T5 one vector for each token.

FLUX.1 was trained with padding tokens taking part in attention, so prompts are padded to the full length, and what T5
answers at the padding is kept. With the padding set to zero, as some bases were trained, nothing is left there that
would have to be kept: a cache then holds the real length alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from simpletuner.models import offload
from simpletuner.models.flux.loading import load_clip, load_t5, load_tokenizers
from simpletuner.models.precision import packing, workplace
from simpletuner.models.sources import loading

if TYPE_CHECKING:
    from diffusers import FluxPipeline
    from torch import Tensor, nn
    from transformers import CLIPTextModel, CLIPTokenizer, T5Tokenizer

    from simpletuner.models.family import Compute, Conditioning, TextEncoder, TextSettings, Weights

UNMODIFIED, ZERO = "unmodified", "zero"
"""What stands behind the end of a prompt."""


@contextmanager
def open_encoders(weights: Weights, settings: TextSettings, compute: Compute) -> Iterator[TextEncoder]:
    """Both text encoders and tokenizers, in memory only inside the ``with``."""
    pipeline = _load(weights, settings, compute)
    length = settings.max_length or pipeline.tokenizer_2.model_max_length

    def encode(prompts: Sequence[str]) -> Sequence[Conditioning]:
        import torch

        with torch.no_grad():
            tokens, pooled, _ = pipeline.encode_prompt(
                list(prompts), None, device=compute.device, max_sequence_length=length
            )
        masks = tokens_of(pipeline.tokenizer_2, prompts, length)[1].bool()
        tokens, pooled = tokens.to("cpu", torch.bfloat16), pooled.to("cpu", torch.bfloat16)
        if settings.padding == ZERO:
            # Not a product with the mask: that would leave negative zeros, and make NaN of an infinity.
            tokens = torch.where(masks[:, :, None], tokens, tokens.new_zeros(()))
        return [
            {"prompt_embeds": one, "pooled_prompt_embeds": vector, "prompt_mask": mask}
            for one, vector, mask in zip(tokens, pooled, masks, strict=True)
        ]

    yield encode


def tokens_of(tokenizer: CLIPTokenizer | T5Tokenizer, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Numbers of tokens and which of them are words, with shape (prompts, length)."""
    found = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids, found.attention_mask


def _load(weights: Weights, settings: TextSettings, compute: Compute) -> FluxPipeline:
    """The encoders from their places, each packed in its own way, as the pipeline that knows how to use them."""
    from diffusers import FluxPipeline

    sources = (weights.clip or weights.base, weights.t5 or weights.base)
    packs = [packing(one, workplace(settings.pack_via, compute.device)) for one in settings.precisions]
    with loading("The text encoders", sources[0]):
        tokenizer, tokenizer_2 = load_tokenizers(weights.base, weights.revision)
        clip = load_clip(sources[0], weights, compute.dtype, packs[0])
    with loading("The text encoders", sources[1]):
        t5 = load_t5(sources[1], weights, compute.dtype, packs[1])
    offload.settle(clip, clip_blocks(clip), settings.offload, compute.device)
    offload.settle(t5, t5.encoder.block, settings.offload, compute.device)
    return FluxPipeline(
        scheduler=None,
        vae=None,
        transformer=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        text_encoder=clip,
        text_encoder_2=t5,
    )


def clip_blocks(clip: CLIPTextModel) -> Sequence[nn.Module]:
    """The layers of CLIP's text encoder; some versions of transformers have one level of names more."""
    inner: Any = clip.text_model if "text_model" in dict(clip.named_children()) else clip
    return list(inner.encoder.layers)
