"""Random numbers for the samples of a batch: they depend on the seed, their purpose and the sample's number alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.training.runtime import generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Draws for the samples of one batch, the first axis of all that is drawn."""

    seed: int
    samples: Sequence[int]
    """Their numbers in the whole run."""

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, with this shape for each sample."""
        import torch

        return torch.stack([torch.randn(tuple(shape), generator=one) for one in self.generators(purpose)])

    def uniform(self, purpose: str) -> Tensor:
        """One number in 0..1 for each sample, with shape (batch,)."""
        import torch

        return torch.cat([torch.rand(1, generator=one) for one in self.generators(purpose)])

    def generators(self, purpose: str) -> Iterator[torch.Generator]:
        """A generator for each sample."""
        return (generator(self.seed, purpose, sample) for sample in self.samples)
