"""The folder a pretraining run works in: counts its steps, and goes on where a broken run stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from torch import Tensor


class Part(Protocol):
    """Anything torch can save: a model, an optimizer, an average."""

    def state_dict(self) -> dict[str, Any]:  # Any: torch promises no more
        """All that is needed to go on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Go on from there."""


@dataclass(frozen=True)
class Work:
    """One pretraining run: where it keeps its state, and what makes it reproducible."""

    folder: Path
    seed: int
    bf16: bool
    """Train the autoencoder in bf16: much faster on processors with AVX-512 BF16, several times slower on others."""

    def steps(self, stage: str, total: int, parts: Mapping[str, Part]) -> Iterator[int]:
        """The numbers of the steps still to be taken, saving the parts now and then and after the last one."""
        saved = self.folder / f"{stage}.pt"
        first = _load(saved, parts) if saved.exists() else 0
        print(f"{stage}: step {first} of {total}", flush=True)
        for step in range(first, total):
            yield step
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == total:
                _save(saved, parts, step + 1)

    def random(self, number: int) -> Random:
        """Draws the pictures of a numbered step or scene: a resumed run draws what an unbroken one would have drawn."""
        return Random(f"{self.seed} {number}")

    def generator(self, step: int) -> torch.Generator:
        """Draws the noise of a step, in the same way."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def autocast(self) -> AbstractContextManager[None]:
        """Where multiplying in bf16 pays, if anywhere."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)

    def note(self, step: int, loss: Tensor) -> None:
        """Say now and then how it goes."""
        if (step + 1) % 100 == 0:
            print(f"{time.strftime('%H:%M:%S')} step {step + 1}: loss {loss.item():.4f}", flush=True)


def _save(path: Path, parts: Mapping[str, Part], steps_done: int) -> None:
    unfinished = path.with_suffix(".unfinished")
    torch.save({"steps": steps_done, **{name: part.state_dict() for name, part in parts.items()}}, unfinished)
    unfinished.rename(path)


def _load(path: Path, parts: Mapping[str, Part]) -> int:
    saved = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["steps"])


_SAVE_EVERY = 200
