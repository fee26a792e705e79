"""Small pictures of what is being drawn, while it is drawn, through a tiny autoencoder that costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.models.sampling import Watch
from simpletuner.models.sources import loading
from simpletuner.progress import PreviewDrawn, Reporter
from simpletuner.storage.local import LocalStore
from simpletuner.training.pictures import png
from simpletuner.training.prompts import Shot
from simpletuner.training.runtime import Runtime
from simpletuner.training.studio import picture

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "validation_images/previews"


@dataclass(frozen=True)
class Previews:
    """Decodes what a picture is expected to become after every few steps, and tells of it."""

    source: str
    """The tiny autoencoder: a folder, or an id on the Hub."""
    every: int
    folder: Path
    reporter: Reporter
    runtime: Runtime

    @contextmanager
    def of_step(self, step: int) -> Iterator[Watcher]:
        """Previews of the pictures after a step of training; the autoencoder is in memory only inside the ``with``."""
        yield Watcher(self, step, _load(self.source).to(self.runtime.device))


def is_there(source: str) -> None:
    """Raise a ModelError unless the autoencoder can be loaded."""
    _load(source)


def _load(source: str) -> Any:
    from diffusers import AutoencoderTiny

    with loading("The tiny autoencoder for previews", source, option="validation_preview_model"):
        return AutoencoderTiny.from_pretrained(source)


@dataclass(frozen=True)
class Watcher:
    """Looks on while the pictures of one step are drawn."""

    previews: Previews
    step: int
    autoencoder: Any
    """From diffusers, which has no types."""

    @contextmanager
    def __call__(self, shot: Shot, steps: int) -> Iterator[Watch]:
        """What is told after each step of drawing."""
        key = f"{FOLDER}/{shot.name}.png"

        def watch(number: int, expected: Tensor) -> None:
            if number % self.previews.every == 0:
                LocalStore(self.previews.folder).write(key, png(picture(self._decoded(expected))))
                path = str(self.previews.folder / key)
                self.previews.reporter.report(PreviewDrawn(self.step, shot.prompt, number, steps, path))

        yield watch

    def _decoded(self, latents: Tensor) -> Tensor:
        import torch

        config = self.autoencoder.config
        raw = latents.float() / config.scaling_factor + config.shift_factor
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            pixels: Tensor = self.autoencoder.decode(raw, return_dict=False)[0]
        return pixels.float().clamp(-1, 1).cpu()
