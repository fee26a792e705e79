"""How much a transformer of FLUX.1's kind computes: matrix products of one forward pass, told from its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from simpletuner.models.family import Conditioning

_OF_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_added_qkv", "to_add_out", "ff_context", "context_embedder")
_OF_SAMPLE = ("norm", "time_text_embed", "distilled_guidance_layer")
_SINGLE = "single_transformer_blocks"


def forward_work(module: Any, image: int, text: int) -> float:
    """Floating point operations of one forward pass for one sample; a product of numbers and its sum are two.

    Args:
        module: The transformer, with or without an adapter, packed or not; an adapter is not counted.
        image: How many tokens of the image there are.
        text: How many tokens of the prompt.
    """
    from torch import nn

    layers = {name: one for name, one in module.named_modules() if isinstance(one, nn.Linear) and ".lora_" not in name}
    products = sum(_rows(name, image, text) * _size(one) for name, one in layers.items())
    blocks = len(module.transformer_blocks) + len(module.single_transformer_blocks)
    width = module.config.num_attention_heads * module.config.attention_head_dim
    # Queries with keys, and what comes of it with values.
    attention = blocks * 2 * (image + text) ** 2 * width
    return float(2 * (products + attention))


def prompt_tokens(conditioning: Conditioning) -> int:
    """How many tokens the prompt has; none while text encoders are trained, which make them later."""
    return conditioning["prompt_embeds"].shape[-2] if "prompt_embeds" in conditioning else 0


def _size(layer: nn.Linear) -> int:
    return layer.in_features * layer.out_features


def _rows(name: str, image: int, text: int) -> int:
    """How many times a layer is used for one sample."""
    if any(part in name for part in _OF_SAMPLE):
        return 1
    if name.startswith(_SINGLE):
        return image + text
    return text if any(part in name for part in _OF_TEXT) else image
