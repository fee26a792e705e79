"""The Chroma transformer as a denoiser: FLUX.1 without guidance, whose prompts have a length of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simpletuner.models.chroma.loading import load_transformer
from simpletuner.models.flux.arithmetic import forward_work, prompt_tokens
from simpletuner.models.flux.denoiser import pack, positions, unpack

if TYPE_CHECKING:
    from diffusers import ChromaTransformer2DModel
    from torch import Tensor, nn

    from simpletuner.models.family import Compute, Conditioning, Weights
    from simpletuner.models.kept import Kept
    from simpletuner.models.streaming import Pack


@dataclass(frozen=True)
class ChromaDenoiser:
    """A stock diffusers transformer; what is added to it (adapter, routing) is added from outside."""

    module: ChromaTransformer2DModel
    uses_guidance: bool = False

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Double blocks first, then single blocks."""
        return [*self.module.transformer_blocks, *self.module.single_transformer_blocks]

    def work(self, height: int, width: int, conditioning: Conditioning) -> float:
        """Floating point operations in one forward pass of one sample."""
        return forward_work(self.module, height * width // 4, prompt_tokens(conditioning))

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning, guidance: Tensor | None) -> Tensor:
        """Predict noise minus image for latents with shape (batch, 16, height, width)."""
        import torch

        height, width = noisy.shape[-2:]
        prompt, tokens = conditioning["prompt_embeds"].to(noisy.dtype), pack(noisy)
        image = torch.ones(tokens.shape[:2], dtype=torch.bool, device=noisy.device)
        (packed,) = self.module(
            hidden_states=tokens,
            timestep=sigma,
            encoder_hidden_states=prompt,
            txt_ids=prompt.new_zeros(prompt.shape[1], 3),
            img_ids=positions(height, width, noisy),
            attention_mask=torch.cat([conditioning["prompt_mask"].bool(), image], dim=1),
            return_dict=False,
        )
        return unpack(packed, height, width)


def load(weights: Weights, compute: Compute, *, pack: Pack | None = None, kept: Kept | None = None) -> ChromaDenoiser:
    """The frozen transformer, on the CPU: it moves to its device after it has been packed."""
    module = load_transformer(weights, compute, pack, kept)
    module.requires_grad_(False)
    hide_padding(module)
    return ChromaDenoiser(module)


def hide_padding(module: ChromaTransformer2DModel) -> None:
    """Hide padding from all tokens, and nothing from padding.

    The blocks would also hide everything from padding: rows that look at nothing, which some kernels answer with
    numbers that are none.
    """
    for block in (*module.transformer_blocks, *module.single_transformer_blocks):
        block.attn.register_forward_pre_hook(_all_rows_look, with_kwargs=True)


def _all_rows_look(layer: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
    mask = given.get("attention_mask")
    return None if mask is None else (args, {**given, "attention_mask": mask.any(dim=2, keepdim=True)})
