"""Captions encoded by text encoders that are being trained, over what a cache knows of the other encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.models import checkpointing
from simpletuner.models.adapters.lora_state import lora_layers
from simpletuner.models.checkpointing import Recompute
from simpletuner.training.batches import Prompts
from simpletuner.training.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.family import Conditioning
    from simpletuner.models.learned_text import TextPart


@dataclass(frozen=True)
class Texts:
    """Text encoders with adapters on them."""

    parts: Sequence[TextPart]
    runtime: Runtime

    def start(self, recompute: Recompute | None) -> None:
        """Move the encoders to the device, adapters included, and make them ready for training."""
        for part in self.parts:
            part.module.to(self.runtime.device)
            _switch(part, is_training=True)
            if recompute is not None:
                checkpointing.enable(part.blocks, recompute)

    def learned(self, captions: Sequence[str]) -> Conditioning:
        """What the encoders make of the captions of a batch now, with gradients."""
        with self.runtime.autocast():
            return {name: one for part in self.parts for name, one in part.encode(captions).items()}

    def over(self, prompts: Prompts) -> Prompts:
        """Prompts for drawing and measuring: as the cache knows them, with what the encoders make of them now."""
        return _Current(self, prompts)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """A moment without gradients and without dropout of the adapters."""
        import torch

        for part in self.parts:
            _switch(part, is_training=False)
        try:
            with torch.no_grad():
                yield
        finally:
            for part in self.parts:
                _switch(part, is_training=True)


@dataclass(frozen=True)
class _Current:
    """Prompts as they are encoded now."""

    texts: Texts
    cached: Prompts

    def __getitem__(self, prompt: str) -> Mapping[str, Tensor]:
        with self.texts.drawing():
            now = self.texts.learned([prompt])
        return {**self.cached[prompt], **{name: one[0] for name, one in now.items()}}


def _switch(part: TextPart, *, is_training: bool) -> None:
    """Dropout of the adapter alone: the encoder's own was off when its answers were cached, and stays off."""
    for layer in lora_layers(part.module).values():
        layer.train(is_training)
