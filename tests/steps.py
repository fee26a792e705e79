"""One batch and a trainer in float64 around the tiny transformer, to compare a step with an independent computation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import house
import tiny
import torch
from diffusers import FluxPipeline

from simpletuner.building import build_trainer
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.adapter import AdapterFile
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.family import Compute
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.training.batches import Batch
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime
from simpletuner.training.trainer import Trainer

SEED = 7


def batch(**changes: object) -> Batch:
    """Two samples of random numbers."""
    random = torch.Generator().manual_seed(2)
    draw = {"dtype": torch.float64, "generator": random}
    facts = {
        "number": 5,
        "epoch": 0,
        "dataset": "subject",
        "regularise": False,
        "keys": ("a.png", "b.png"),
        "samples": (10, 11),
        "latents": torch.randn(2, 16, 8, 12, **draw),
        "noise": torch.randn(2, 16, 8, 12, **draw),
        "normal": torch.randn(2, generator=random),
        "uniform": torch.rand(2, generator=random),
        "conditioning": {
            "prompt_embeds": torch.randn(2, tiny.TEXT, tiny.WIDTH, **draw),
            "pooled_prompt_embeds": torch.randn(2, tiny.WIDTH, **draw),
        },
    }
    return Batch(**{**facts, **changes})


def trainer(folder: Path, model: Path, pictures: Path, *, guidance: bool = True, **options: object) -> Trainer:
    """A trainer in float64 with a LoRA of random numbers on a tiny transformer, which may take guidance."""
    path = house.write_run(folder, [house.data_set("subject", pictures)], **{"lora_dropout": 0, **options})
    config = house.resolved(path, model)
    runtime = Runtime.start("no", SEED)
    runtime = Runtime(runtime.accelerator, Compute(runtime.device, torch.float64), SEED)
    prepared = prepare(config, Runtime.start("no", SEED), Recorded())
    made = build_trainer(config, prepared, Checkpoints(folder / "output", 0), runtime, Recorded())
    denoiser = tiny.denoiser(guidance=guidance)
    denoiser.module.double()
    adapter = lora.attach(denoiser.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 2.0), torch.float64, seed=3)
    _disturb(denoiser)
    learning = replace(made.learning, denoiser=denoiser, trained=AdapterFile(adapter))
    return replace(made, denoiser=denoiser, learning=learning)


def _disturb(denoiser: object) -> None:
    random = torch.Generator().manual_seed(5)
    for parameter in lora.trainable(denoiser.module).values():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=random) * 0.1


def answer(
    network: torch.nn.Module,
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    conditioning: dict[str, torch.Tensor],
    guidance: torch.Tensor,
) -> torch.Tensor:
    """What a transformer says by diffusers' own packing."""
    size, channels, height, width = noisy.shape
    packed = network(
        hidden_states=FluxPipeline._pack_latents(noisy, size, channels, height, width),
        timestep=sigma,
        guidance=guidance,
        pooled_projections=conditioning["pooled_prompt_embeds"],
        encoder_hidden_states=conditioning["prompt_embeds"],
        txt_ids=torch.zeros(tiny.TEXT, 3, dtype=torch.float64),
        img_ids=FluxPipeline._prepare_latent_image_ids(size, height // 2, width // 2, "cpu", torch.float64),
    ).sample
    return FluxPipeline._unpack_latents(packed, height * 8, width * 8, 8)


def gradients(network: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients of a loss alone."""
    network.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in lora.trainable(network).items()}
