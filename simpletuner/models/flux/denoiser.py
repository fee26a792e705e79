"""The FLUX.1 transformer as a denoiser: pack latents into tokens, predict, unpack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.models.sources import loading

if TYPE_CHECKING:
    import torch
    from diffusers import FluxTransformer2DModel
    from torch import Tensor, nn

    from simpletuner.models.family import Compute, Conditioning, Weights


@dataclass(frozen=True)
class FluxDenoiser:
    """A stock diffusers transformer; what is added to it (adapter, routing) is added from outside."""

    module: FluxTransformer2DModel

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Double blocks first, then single blocks."""
        return [*self.module.transformer_blocks, *self.module.single_transformer_blocks]

    @property
    def uses_guidance(self) -> bool:
        """True for the guidance-distilled flavours."""
        return bool(self.module.config.guidance_embeds)

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning, guidance: Tensor | None) -> Tensor:
        """Predict noise minus image for latents with shape (batch, 16, height, width)."""
        height, width = noisy.shape[-2:]
        prompt = conditioning["prompt_embeds"].to(noisy.dtype)
        (packed,) = self.module(
            hidden_states=pack(noisy),
            timestep=sigma,
            guidance=guidance,
            pooled_projections=conditioning["pooled_prompt_embeds"].to(noisy.dtype),
            encoder_hidden_states=prompt,
            txt_ids=prompt.new_zeros(prompt.shape[1], 3),
            img_ids=positions(height, width, noisy),
            return_dict=False,
        )
        return unpack(packed, height, width)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Switch every adapter layer off, so that the output is exactly the base model's."""
        self.module.disable_adapters()
        try:
            yield
        finally:
            self.module.enable_adapters()


def pack(latents: Tensor) -> Tensor:
    """Two by two latent pixels make one token."""
    from einops import rearrange

    return rearrange(latents, "b c (h dy) (w dx) -> b (h w) (c dy dx)", dy=2, dx=2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for latents of this height and width."""
    from einops import rearrange

    return rearrange(tokens, "b (h w) (c dy dx) -> b c (h dy) (w dx)", h=height // 2, w=width // 2, dy=2, dx=2)


def positions(height: int, width: int, like: Tensor) -> torch.Tensor:
    """Rotary position of every image token, with shape (tokens, 3): zero, row, column."""
    import torch

    rows, columns = torch.meshgrid(
        torch.arange(height // 2, device=like.device, dtype=like.dtype),
        torch.arange(width // 2, device=like.device, dtype=like.dtype),
        indexing="ij",
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)


def load(weights: Weights, compute: Compute) -> FluxDenoiser:
    """The frozen transformer, on the CPU: it moves to its device after it has been packed."""
    from diffusers import FluxTransformer2DModel

    with loading("The transformer", weights.transformer):
        module = FluxTransformer2DModel.from_pretrained(
            weights.transformer,
            subfolder=weights.transformer_subfolder or None,
            dtype=compute.dtype,
            revision=weights.revision,
            variant=weights.variant,
        )
        absent = [name for name, parameter in module.named_parameters() if parameter.is_meta]
        if absent:
            raise ValueError(f"{len(absent)} weights are missing, {absent[0]} the first of them")
    module.requires_grad_(False)
    return FluxDenoiser(module)
