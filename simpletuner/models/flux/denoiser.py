"""The FLUX.1 transformer as a denoiser: pack latents into tokens, predict, unpack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.flux import inputs, kontext
from simpletuner.models.flux.arithmetic import forward_work, prompt_tokens
from simpletuner.models.flux.loading import load_transformer
from simpletuner.models.references import channels, references

if TYPE_CHECKING:
    import torch
    from diffusers import FluxTransformer2DModel
    from torch import Tensor, nn

    from simpletuner.models.family import Compute, Conditioning, Weights
    from simpletuner.models.kept import Kept
    from simpletuner.models.streaming import Pack


@dataclass(frozen=True)
class FluxDenoiser:
    """A stock diffusers transformer; what is added to it (adapter, routing) is added from outside."""

    module: FluxTransformer2DModel
    masks_prompt: bool = False
    """Whether the padding of prompts is hidden from all other tokens."""
    has_still_references: bool = False
    """Whether references are told time 0 and not that of the image; the blocks must have been changed for it."""

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
        return self.answer(noisy, self.given(noisy, sigma, conditioning, guidance))

    def given(
        self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> dict[str, Any]:
        """What the network is given, by the names of its arguments."""
        import torch

        height, width = noisy.shape[-2:]
        prompt = conditioning["prompt_embeds"].to(noisy.dtype)
        pooled = conditioning["pooled_prompt_embeds"].to(noisy.dtype)
        tokens = torch.cat([pack(one.to(noisy.dtype)) for one in (noisy, *channels(conditioning))], dim=-1)
        places = positions(height, width, noisy)
        more: dict[str, Any] = {}
        if others := [one.to(noisy.dtype) for one in references(conditioning)]:
            sizes = [(one.shape[-2] // 2, one.shape[-1] // 2) for one in others]
            tokens = torch.cat([tokens, *map(pack, others)], dim=1)
            places = torch.cat([places, kontext.positions(sizes, noisy)])
            if self.has_still_references:
                more[kontext.STILL] = self._still(sigma, guidance, pooled)
        if self.masks_prompt:
            more["attention_mask"] = visible(conditioning["prompt_mask"], tokens.shape[1])
        return {
            "hidden_states": tokens,
            "timestep": sigma,
            "guidance": guidance,
            "pooled_projections": pooled,
            "encoder_hidden_states": prompt,
            "txt_ids": prompt.new_zeros(prompt.shape[1], 3),
            "img_ids": places,
            "joint_attention_kwargs": more or None,
        }

    def answer(self, noisy: Tensor, given: Mapping[str, Any]) -> Tensor:
        """What the network makes of that, for latents of the shape of `noisy`."""
        height, width = noisy.shape[-2:]
        (packed,) = self.module(**given, return_dict=False)
        return unpack(packed[:, : height * width // 4], height, width)

    def work(self, height: int, width: int, conditioning: Conditioning) -> float:
        """Floating point operations in one forward pass of one sample."""
        seen = references(conditioning) if self.has_still_references else []
        pixels = height * width + sum(one.shape[-2] * one.shape[-1] for one in seen)
        return forward_work(self.module, pixels // 4, prompt_tokens(conditioning))

    def _still(self, sigma: Tensor, guidance: Tensor | None, pooled: Tensor) -> Tensor:
        """What the network makes of time 0, beside the same guidance and prompt."""
        # A thousand times the guidance, as the transformer itself tells it.
        known = [] if guidance is None else [guidance.to(pooled.dtype) * 1000]
        found: Tensor = self.module.time_text_embed(sigma.new_zeros(sigma.shape, dtype=pooled.dtype), *known, pooled)
        return found


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


def visible(prompt: Tensor, image_tokens: int) -> Tensor:
    """Which tokens may be looked at, text in front of the image, with shape (batch, 1, 1, tokens).

    True and false, and not 0 and 1: numbers would be added to the scores, and padding would only be seen less.
    """
    import torch

    image = prompt.new_ones(len(prompt), image_tokens, dtype=torch.bool)
    return torch.cat([prompt.bool(), image], dim=1)[:, None, None]


def load(
    weights: Weights,
    compute: Compute,
    *,
    pack: Pack | None = None,
    masks_prompt: bool = False,
    takes_references: bool = False,
    follows: bool = False,
    kept: Kept | None = None,
) -> FluxDenoiser:
    """The frozen transformer, on the CPU: it moves to its device after it has been packed."""
    module = load_transformer(weights, compute, pack, kept)
    module.requires_grad_(False)
    if follows:
        inputs.widen(module)
    if wrong := inputs.wrong_with(module.config, weights.flavour, follows=follows):
        raise ModelError(f"'{weights.transformer}' does not fit model_flavour: {wrong}.")
    if takes_references:
        kontext.give_each_its_time(module)
    return FluxDenoiser(module, masks_prompt, takes_references)
