"""A Flux of three double and five single blocks with random weights, and inputs for it: a step takes milliseconds."""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel

from simpletuner.models.family import Weights
from simpletuner.models.flux.denoiser import FluxDenoiser

TEXT = 7
WIDTH = 24


def flux(*, seed: int = 0, guidance: bool = True) -> FluxTransformer2DModel:
    """A frozen transformer; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=3,
            num_single_layers=5,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            guidance_embeds=guidance,
        )
    made.requires_grad_(False)
    return made


def denoiser(**options: object) -> FluxDenoiser:
    """The transformer as the project sees it."""
    return FluxDenoiser(flux(**options))


def inputs(batch: int = 2, height: int = 8, width: int = 12, seed: int = 1) -> dict[str, object]:
    """What `Denoiser.predict` takes."""
    random = torch.Generator().manual_seed(seed)
    return {
        "noisy": torch.randn(batch, 16, height, width, generator=random),
        "sigma": torch.rand(batch, generator=random),
        "conditioning": {
            "prompt_embeds": torch.randn(batch, TEXT, WIDTH, generator=random),
            "pooled_prompt_embeds": torch.randn(batch, WIDTH, generator=random),
        },
        "guidance": torch.ones(batch),
    }


def weights(folder: object) -> Weights:
    """A model folder as the source of every part."""
    return Weights(base=str(folder), transformer=str(folder), transformer_subfolder="transformer", vae=str(folder))
