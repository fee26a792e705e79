"""Batch number n as tensors: everything random in it depends on the seed and the global sample numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from simpletuner.data.dataset import Dataset
from simpletuner.data.items import Record
from simpletuner.data.sampler import Draw, Order
from simpletuner.training.runtime import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor


class Prompts(Protocol):
    """Where conditioning comes from."""

    def __getitem__(self, prompt: str) -> Mapping[str, Tensor]:
        """The conditioning of one prompt, without a batch axis."""


class Latents(Protocol):
    """Where latents come from."""

    def get(self, dataset: str, record: Record) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one image of a data set."""


@dataclass(frozen=True)
class Batch:
    """One forward pass worth of samples, all of one data set and one bucket."""

    number: int
    epoch: int
    dataset: str
    regularise: bool
    keys: tuple[str, ...]
    samples: tuple[int, ...]
    latents: Tensor
    """Clean latents with shape (batch, channels, height, width)."""
    noise: Tensor
    """Standard normal numbers of the same shape."""
    normal: Tensor
    """Standard normal numbers with shape (batch,), from which the noise level is made."""
    uniform: Tensor
    """Numbers in 0..1 with shape (batch,), from which a random guidance value is made."""
    conditioning: Mapping[str, Tensor]


class Batches:
    """Makes batches by their number."""

    def __init__(
        self, datasets: Sequence[Dataset], order: Order, prompts: Prompts, latents: Latents, seed: int
    ) -> None:
        self._datasets = datasets
        self._order = order
        self._prompts = prompts
        self._latents = latents
        self._seed = seed

    @property
    def per_epoch(self) -> int:
        """How many batches show everything once."""
        return self._order.batches_per_epoch

    def load(self, number: int) -> Batch:
        """Batch `number` of the run."""
        import torch

        draws = self._order.batch(number)
        dataset = self._datasets[draws.dataset]
        records = [dataset.records[draw.record] for draw in draws.draws]
        latents = torch.stack(
            [self._sampled(dataset.id, record, draw) for record, draw in zip(records, draws.draws, strict=True)]
        )
        return Batch(
            number=number,
            epoch=draws.epoch,
            dataset=dataset.id,
            regularise=dataset.regularise,
            keys=tuple(record.key for record in records),
            samples=tuple(draw.sample for draw in draws.draws),
            latents=latents,
            noise=torch.stack([self._normal("noise", draw, latents.shape[1:]) for draw in draws.draws]),
            normal=torch.cat([self._normal("sigma", draw, (1,)) for draw in draws.draws]),
            uniform=torch.cat([self._uniform("guidance", draw) for draw in draws.draws]),
            conditioning=stacked([self._prompts[draw.caption] for draw in draws.draws]),
        )

    def _sampled(self, dataset: str, record: Record, draw: Draw) -> Tensor:
        mean, std = self._latents.get(dataset, record)
        return mean + std * self._normal("posterior", draw, mean.shape)

    def _normal(self, purpose: str, draw: Draw, shape: Sequence[int] | torch.Size) -> Tensor:
        import torch

        return torch.randn(tuple(shape), generator=generator(self._seed, purpose, draw.sample))

    def _uniform(self, purpose: str, draw: Draw) -> Tensor:
        import torch

        return torch.rand(1, generator=generator(self._seed, purpose, draw.sample))

    def ahead(self, numbers: range) -> Iterator[Batch]:
        """The batches of these numbers in order; the next one is loaded while the current one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            coming = [pool.submit(self.load, number) for number in numbers[:1]]
            for following in chain(numbers[1:], [None]):
                batch = coming.pop().result()
                if following is not None:
                    coming.append(pool.submit(self.load, following))
                yield batch


def stacked(conditionings: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Conditioning of several samples along a new first axis."""
    import torch

    return {name: torch.stack([one[name] for one in conditionings]) for name in conditionings[0]}
