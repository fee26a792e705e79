"""Batch number n as tensors: everything random in it depends on the seed and the global sample numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from simpletuner.data import masks
from simpletuner.data.dataset import Dataset
from simpletuner.data.items import Record
from simpletuner.data.sampler import Draw, Order
from simpletuner.seeds import derive
from simpletuner.training import references
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
    captions: tuple[str, ...] = ()
    """What the conditioning tells."""
    step: int = 0
    """The optimizer step that the batch belongs to, counted from 0."""
    weight: float = 1.0
    """What the loss is multiplied with."""
    timestep_offset: float = 0.0
    """How much noisier or cleaner images are trained than others."""
    mask: Tensor | None = None
    """How much of each part of the latents is learned, in 0..1 with shape (batch, 1, height, width)."""
    optional_mask: Tensor | None = None
    """The same for a mask that is used only sometimes."""


class Batches:
    """Makes batches by their number."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        order: Order,
        prompts: Prompts,
        latents: Latents,
        seed: int,
        *,
        references: str = references.RANDOM,
    ) -> None:
        """`references` says what is done with several data sets of references: random or combined."""
        self._datasets = datasets
        self._order = order
        self._prompts = prompts
        self._latents = latents
        self._seed = seed
        self._references = references

    def load(self, number: int) -> Batch:
        """Batch `number` of the run."""
        import torch

        draws = self._order.batch(number)
        dataset = self._datasets[draws.dataset]
        records = [self._record(dataset, draw, draws.epoch) for draw in draws.draws]
        latents = torch.stack(
            [self._sampled(dataset.id, record, draw) for record, draw in zip(records, draws.draws, strict=True)]
        )
        pairs = [(record, draw.record) for record, draw in zip(records, draws.draws, strict=True)]
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
            conditioning={
                **stacked([self._prompts[draw.caption] for draw in draws.draws]),
                **references.of_draws(
                    dataset,
                    draws.draws,
                    draws.epoch,
                    self._latents,
                    sampling=self._references,
                    seed=self._seed,
                    mirrored=[record.placement.mirrored for record in records],
                ),
            },
            captions=tuple(draw.caption for draw in draws.draws),
            step=draws.step,
            weight=dataset.loss_weight,
            timestep_offset=dataset.options.timestep_sampling_offset,
            mask=weights(dataset, pairs, latents.shape[2:], kind="mask"),
            optional_mask=weights(dataset, pairs, latents.shape[2:], kind="segmentation"),
        )

    def _record(self, dataset: Dataset, draw: Draw, epoch: int) -> Record:
        is_mirrored = dataset.records.mirrors and derive(self._seed, "mirror", draw.sample) % 2 == 1
        return dataset.records.at(draw.record, epoch, mirrored=is_mirrored)

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


def weights(dataset: Dataset, used: Sequence[tuple[Record, int]], size: Sequence[int], *, kind: str) -> Tensor | None:
    """The masks of some records at the size of their latents; nothing when the data set has none of this kind.

    Args:
        dataset: The data set.
        used: Records as they are used, each with its number in the data set.
        size: Height and width of the latents.
        kind: The conditioning type: mask or segmentation.
    """
    import torch
    from torch.nn.functional import interpolate

    stacks = [
        [_mask(dataset, one.dataset, record, place, kind) for record, place in used]
        for one in dataset.conditions
        if one.kind == kind
    ]
    if kind == "mask" and dataset.options.alpha_mask:
        stacks.append([dataset.opacity(record) for record, _ in used])
    if not stacks:
        return None
    product = torch.ones(len(used), 1, *size)
    for stack in stacks:
        fine = torch.stack([torch.from_numpy(one) for one in stack])[:, None]
        product = product * interpolate(fine, size=tuple(size), mode="area")
    return product


def _mask(dataset: Dataset, partners: Dataset, image: Record, place: int, kind: str) -> masks.Weights:
    key = partners.records.key(place)
    return masks.read(
        partners.source.read(key),
        partners.source.name(key),
        kind=kind,
        image=dataset.source.name(image.key),
        size=image.size,
        placement=image.placement,
    )
