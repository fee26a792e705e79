"""What diffusers alone draws with a model and an adapter file, and how far two pictures are from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image


def pipeline(model: Path, adapter: Path | None = None) -> FluxPipeline:
    """The pipeline of diffusers, with an adapter if one is given."""
    found = FluxPipeline.from_pretrained(model, dtype=torch.float32)
    found.set_progress_bar_config(disable=True)
    if adapter is not None:
        found.load_lora_weights(adapter.parent, weight_name=adapter.name)
    return found


def drawn(by: FluxPipeline, prompt: str, seed: int = 11, **given: object) -> Image.Image:
    """One picture, with prompts as long as the tokenizer allows."""
    random = torch.Generator().manual_seed(seed)
    length = by.tokenizer_2.model_max_length
    image: Image.Image = by(prompt, generator=random, max_sequence_length=length, **given).images[0]
    return image


def levels(image: Image.Image | Path | str) -> np.ndarray:
    """A picture as numbers from 0 to 255."""
    opened = image if isinstance(image, Image.Image) else Image.open(image)
    return np.asarray(opened.convert("RGB"), dtype=int)


def differ(one: Image.Image | Path | str, other: Image.Image | Path | str) -> int:
    """The largest difference of any number in two pictures."""
    return int(np.abs(levels(one) - levels(other)).max())
