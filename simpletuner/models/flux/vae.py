"""Pixels to latents and back, through the 16-channel autoencoder of FLUX.1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.models import offload
from simpletuner.models.family import Posterior
from simpletuner.models.flux.loading import load_autoencoder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor, nn

    from simpletuner.models.family import Compute, LatentCodec, Weights
    from simpletuner.models.offload import Offload


@dataclass(frozen=True)
class FluxCodec:
    """The autoencoder with the shift and scale of its config applied: latents have mean 0 and deviation near 1."""

    vae: AutoencoderKL
    compute: Compute

    def encode(self, pixels: Tensor) -> Posterior:
        """Mean and deviation of the latents, in float32 on the CPU."""
        import torch

        shift, scale = self.vae.config.shift_factor, self.vae.config.scaling_factor
        with torch.no_grad():
            found = self.vae.encode(pixels.to(self.compute.device, self.compute.dtype)).latent_dist
        return Posterior(((found.mean.float() - shift) * scale).cpu(), (found.std.float() * scale).cpu())

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels in -1..1, in float32 on the CPU."""
        import torch

        raw = latents.float() / self.vae.config.scaling_factor + self.vae.config.shift_factor
        with torch.no_grad():
            pixels: Tensor = self.vae.decode(raw.to(self.compute.device, self.compute.dtype), return_dict=False)[0]
        return pixels.float().clamp(-1, 1).cpu()


@contextmanager
def open_codec(
    weights: Weights, compute: Compute, *, tiling: bool, slicing: bool, plan: Offload | None = None
) -> Iterator[LatentCodec]:
    """The autoencoder, in memory only inside the ``with``."""
    vae = load_autoencoder(weights, compute)
    offload.settle(vae, _blocks(vae), plan, compute.device)
    if tiling:
        vae.enable_tiling()
    if slicing:
        vae.enable_slicing()
    yield FluxCodec(vae, compute)


def _blocks(vae: AutoencoderKL) -> Sequence[nn.Module]:
    """The parts of the encoder and then of the decoder, in the order in which they run."""
    down, up = vae.encoder, vae.decoder
    return [*down.down_blocks, down.mid_block, up.mid_block, *up.up_blocks]
