"""Trains the demo model's transformer, together with its text encoders, on the latents of drawn shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import FluxPipeline, FluxTransformer2DModel
from einops import rearrange
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from simpletuner.demo import autoencoder, shapes
from simpletuner.demo.work import Part, Work

STEPS = 2500


def train(pipeline: FluxPipeline, work: Work) -> None:
    """Put a trained transformer and trained text encoders into a pipeline whose autoencoder is trained already."""
    album = _draw_album(pipeline, work)
    model = _Model(pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2)
    average = AveragedModel(model, avg_fn=_moving_average)
    optimizers = _optimizers(model)
    parts: dict[str, Part] = {"model": model, "average": average, **optimizers}
    for step in work.steps("transformer", STEPS, parts):
        batch = album.batch(work.generator(step))
        loss = F.mse_loss(model(batch), batch.noise - batch.latents)
        _descend(model, optimizers, loss, step)
        average.update_parameters(model)
        work.note(step, loss)
    model.load_state_dict(average.module.state_dict())


@dataclass(frozen=True)
class _Batch:
    """What one step learns from."""

    latents: Tensor
    """Shape (batch, image tokens, channels)."""
    noise: Tensor
    sigma: Tensor
    guidance: Tensor
    clip_ids: Tensor
    """Shape (batch, text tokens)."""
    t5_ids: Tensor


@dataclass(frozen=True)
class _Album:
    """The training pictures as latents, and their captions as token ids."""

    latents: Tensor
    """Shape (scenes, variants, image tokens, channels)."""
    clip_ids: Tensor
    """Shape (scenes x phrasings + 1, text tokens); the last row is the empty caption."""
    t5_ids: Tensor

    def batch(self, generator: Generator) -> _Batch:
        """A random batch; one caption in ten is empty, which is what classifier-free guidance needs."""

        def pick(choices: int) -> Tensor:
            return torch.randint(choices, (_BATCH,), generator=generator)

        scenes, variants, *_ = self.latents.shape
        scene, empty = pick(scenes), len(self.clip_ids) - 1
        caption = torch.where(pick(10) == 0, empty, scene * (empty // scenes) + pick(empty // scenes))
        latents = self.latents[scene, pick(variants)]
        sigma = torch.randn(_BATCH, generator=generator).sigmoid()
        return _Batch(
            latents=latents,
            noise=torch.randn(latents.shape, generator=generator),
            sigma=_SHIFT * sigma / (1 + (_SHIFT - 1) * sigma),
            guidance=1 + 4 * torch.rand(_BATCH, generator=generator),
            clip_ids=self.clip_ids[caption],
            t5_ids=self.t5_ids[caption],
        )


class _Model(nn.Module):
    """All that is trained together."""

    def __init__(self, transformer: FluxTransformer2DModel, clip: CLIPTextModel, t5: T5EncoderModel) -> None:
        super().__init__()
        self.transformer, self.clip, self.t5 = transformer, clip, t5

    def forward(self, batch: _Batch) -> Tensor:
        sigma = batch.sigma[:, None, None]
        side = int(batch.latents.shape[1] ** 0.5)
        velocity: Tensor = self.transformer(
            hidden_states=torch.lerp(batch.latents, batch.noise, sigma),
            timestep=batch.sigma,
            guidance=batch.guidance,
            pooled_projections=self.clip(batch.clip_ids).pooler_output,
            encoder_hidden_states=self.t5(batch.t5_ids).last_hidden_state,
            txt_ids=torch.zeros(batch.t5_ids.shape[1], 3),
            img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(side) * 1.0, torch.arange(side) * 1.0),
        ).sample
        return velocity


def _draw_album(pipeline: FluxPipeline, work: Work) -> _Album:
    scenes = [scene for scene in shapes.scenes() if not scene.is_held_out]
    captions = [caption for scene in scenes for caption in shapes.captions(scene)]
    latents = []
    for number, scene in enumerate(scenes):
        random = work.random(number)
        encoded = autoencoder.encode(pipeline.vae, [shapes.draw(scene, random) for _ in range(_VARIANTS)])
        latents.append(rearrange(encoded, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2))
    return _Album(
        latents=torch.stack(latents),
        clip_ids=_token_ids(pipeline.tokenizer, [*captions, ""]),
        t5_ids=_token_ids(pipeline.tokenizer_2, [*captions, ""]),
    )


def _token_ids(tokenizer: CLIPTokenizer | T5Tokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def _optimizers(model: _Model) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else: Muon was made for hidden layers only."""
    matrices = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and "transformer_blocks" in name and "norm" not in name
    }
    others = [parameter for name, parameter in model.named_parameters() if name not in matrices]
    return {
        "muon": torch.optim.Muon(matrices.values(), lr=_MUON_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW(others, lr=_ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    }


def _moving_average(average: Tensor, current: Tensor, _updates: Tensor | int) -> Tensor:
    return torch.lerp(average, current, 1 - _AVERAGE_DECAY)


def _descend(model: _Model, optimizers: dict[str, torch.optim.Optimizer], loss: Tensor, step: int) -> None:
    """One step; the rate warms up, holds, then falls to zero over the last fifth, which is when details sharpen."""
    scale = min(1.0, (step + 1) / 100, 5 * (STEPS - step) / STEPS)
    model.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for name, rate in (("muon", _MUON_RATE), ("adamw", _ADAMW_RATE)):
        for group in optimizers[name].param_groups:
            group["lr"] = rate * scale
        optimizers[name].step()


_BATCH = 64
_VARIANTS = 4
_SHIFT = 2.0
_MUON_RATE = 3e-3
_ADAMW_RATE = 1.5e-3
_AVERAGE_DECAY = 0.995
