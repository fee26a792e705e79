"""The autoencoder gives latents in the space that the stock pipeline works in, and pixels back."""

import tiny
import torch

from simpletuner.models.family import Compute
from simpletuner.models.flux.loading import load_autoencoder
from simpletuner.models.flux.vae import open_codec

CPU = Compute(torch.device("cpu"), torch.float32)


def pixels():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_latents_are_shifted_and_scaled_as_the_stock_pipeline_does_it(model):
    vae = load_autoencoder(tiny.weights(model), CPU)
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    assert shift and scale != 1
    with torch.no_grad():
        stock = vae.encode(pixels()).latent_dist
    with open_codec(tiny.weights(model), CPU, tiling=False, slicing=False) as codec:
        found = codec.encode(pixels())
    torch.testing.assert_close(found.mean, (stock.mean - shift) * scale)
    torch.testing.assert_close(found.std, stock.std * scale)


def test_pixels_come_back_from_latents_as_the_stock_pipeline_decodes_them(model):
    vae, latents = load_autoencoder(tiny.weights(model), CPU), torch.randn(2, 16, 4, 6) * 0.3
    with torch.no_grad():
        stock = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    with open_codec(tiny.weights(model), CPU, tiling=False, slicing=False) as codec:
        torch.testing.assert_close(codec.decode(latents), stock.clamp(-1, 1))
        assert codec.decode(latents * 100).abs().max() <= 1
