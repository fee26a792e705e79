"""Trains the demo model's autoencoder on shapes and clutter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Generator, Tensor

from simpletuner.demo import shapes
from simpletuner.demo.work import Work

STEPS = 5000


def train(vae: AutoencoderKL, work: Work) -> None:
    """Take all steps, then write into the autoencoder's config how its latents are scaled."""
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    for step in work.steps("autoencoder", STEPS, {"vae": vae, "optimizer": optimizer}):
        loss = _loss(vae, _batch(work.random(step), step), work.generator(step), work)
        _descend(vae, optimizer, loss, step)
        work.note(step, loss)
    vae.to(memory_format=torch.contiguous_format).eval()
    _measure_latents(vae, work.random(STEPS))


def pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures as a tensor with shape (batch, 3, height, width) between -1 and 1."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Sequence[Image.Image]) -> Tensor:
    """Latents as the transformer sees them, with shape (batch, 16, height / 8, width / 8)."""
    latents: Tensor = vae.encode(pixels(pictures)).latent_dist.mode()
    scaled: Tensor = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return scaled


def _batch(random: Random, step: int) -> Tensor:
    # Crops teach the colours and edges four times cheaper; whole pictures then teach the statistics that the
    # normalisation sees when the model is used.
    if step < _STEPS_ON_CROPS:
        return pixels([_crop(_picture(random), random) for _ in range(16)])
    return pixels([_picture(random) for _ in range(4)])


def _picture(random: Random) -> Image.Image:
    if random.random() < 0.35:
        return shapes.clutter(random, shapes.SIDE)
    return shapes.draw(random.choice(_SCENES), random)


def _crop(picture: Image.Image, random: Random) -> Image.Image:
    left, top = random.randint(0, picture.width // 2), random.randint(0, picture.height // 2)
    return picture.crop((left, top, left + picture.width // 2, top + picture.height // 2))


def _loss(vae: AutoencoderKL, batch: Tensor, generator: Generator, work: Work) -> Tensor:
    with work.autocast():
        posterior = vae.encode(batch.contiguous(memory_format=torch.channels_last)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    across = F.l1_loss(decoded.diff(dim=-1), batch.diff(dim=-1))
    down = F.l1_loss(decoded.diff(dim=-2), batch.diff(dim=-2))
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    loss: Tensor = F.l1_loss(decoded, batch) + F.mse_loss(decoded, batch) + across + down + 1e-3 * divergence
    return loss


def _descend(vae: AutoencoderKL, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    warm_up, decay = min(1.0, (step + 1) / 50), 0.5 + 0.5 * math.cos(math.pi * step / STEPS)
    for group in optimizer.param_groups:
        group["lr"] = _LEARNING_RATE * warm_up * (0.01 + 0.99 * decay)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def _measure_latents(vae: AutoencoderKL, random: Random) -> None:
    """Write into the config what brings the latents to mean 0 and deviation 1."""
    pictures = [shapes.draw(random.choice(_SCENES), random) for _ in range(64)]
    latents = vae.encode(pixels(pictures)).latent_dist.mode()
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())


_LEARNING_RATE = 2e-3
_STEPS_ON_CROPS = 3500
_SCENES = list(shapes.scenes())
