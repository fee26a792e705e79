"""CLIP and T5 as encoders that are trained: loaded to stay, and called so that gradients reach them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from simpletuner.models.adapters.formats.neutral import CLIP, T5
from simpletuner.models.flux.loading import load_clip, load_t5, load_tokenizers
from simpletuner.models.flux.text import ZERO, clip_blocks, tokens_of
from simpletuner.models.learned_text import TextPart
from simpletuner.models.precision import packing, workplace
from simpletuner.models.sources import loading

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import CLIPTokenizer, T5Tokenizer

    from simpletuner.models.family import Compute, Conditioning, TextSettings, Weights

CLIP_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
T5_LAYERS = (
    *("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"),
    *("DenseReluDense.wi_0", "DenseReluDense.wi_1", "DenseReluDense.wo"),
)


def opened(
    weights: Weights, settings: TextSettings, compute: Compute, *, wanted: Collection[str]
) -> Sequence[TextPart]:
    """CLIP, T5 or both, on the CPU."""
    tokenizer, tokenizer_2 = load_tokenizers(weights.base, weights.revision)
    found = [_clip(weights, settings, compute, tokenizer)] if CLIP in wanted else []
    return [*found, _t5(weights, settings, compute, tokenizer_2)] if T5 in wanted else found


def _clip(weights: Weights, settings: TextSettings, compute: Compute, tokenizer: CLIPTokenizer) -> TextPart:
    source = weights.clip or weights.base
    pack = packing(settings.precisions[0], workplace(settings.pack_via, compute.device))
    with loading("The text encoders", source):
        module = load_clip(source, weights, compute.dtype, pack)

    def encode(prompts: Sequence[str]) -> Conditioning:
        ids, _ = tokens_of(tokenizer, prompts, tokenizer.model_max_length)
        return {"pooled_prompt_embeds": module(ids.to(_device(module))).pooler_output}

    # Some versions of transformers have one level of names less than files of adapters have.
    has_level = any(name.startswith("text_model.") for name, _ in module.named_modules())
    name = CLIP if has_level else f"{CLIP}.text_model"
    return TextPart(name, module, clip_blocks(module), CLIP_LAYERS, encode)


def _t5(weights: Weights, settings: TextSettings, compute: Compute, tokenizer: T5Tokenizer) -> TextPart:
    source = weights.t5 or weights.base
    pack = packing(settings.precisions[1], workplace(settings.pack_via, compute.device))
    with loading("The text encoders", source):
        module = load_t5(source, weights, compute.dtype, pack)
    length = settings.max_length or tokenizer.model_max_length

    def encode(prompts: Sequence[str]) -> Conditioning:
        ids, words = tokens_of(tokenizer, prompts, length)
        found: Tensor = module(ids.to(_device(module)))[0]
        if settings.padding == ZERO:
            found = found.where(words.bool().to(found.device)[:, :, None], found.new_zeros(()))
        return {"prompt_embeds": found}

    return TextPart(T5, module, list(module.get_submodule("encoder.block").children()), T5_LAYERS, encode)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
