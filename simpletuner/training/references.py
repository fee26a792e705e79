"""The pictures that the images of a batch are made from, for models that look at other pictures besides the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from simpletuner.data.dataset import Condition, Dataset
from simpletuner.data.items import Record
from simpletuner.data.sampler import Draw
from simpletuner.errors import DataError
from simpletuner.models.references import KINDS, name
from simpletuner.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

RANDOM, COMBINED = "random", "combined"
"""Of several data sets of references, one is drawn for each image, or all are used."""


class Latents(Protocol):
    """Where latents come from."""

    def get(self, dataset: str, record: Record) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one image of a data set."""


def of_draws(
    dataset: Dataset, draws: Sequence[Draw], epoch: int, latents: Latents, *, sampling: str, seed: int
) -> dict[str, Tensor]:
    """The references of a batch as a part of its conditioning; nothing when the data set has none.

    Their latents are the mean that the image encoder gives: so they are encoded when pictures are drawn.

    Args:
        dataset: The one that the batch is of.
        draws: Which of its images.
        epoch: In which they are used.
        latents: Where the latents of the references are.
        sampling: What is done with several data sets of references.
        seed: Decides which one is drawn.

    Raises:
        DataError: References of one batch have different sizes.
    """
    import torch

    chosen = [_chosen(dataset, draw, sampling, seed) for draw in draws]
    samples = [
        [_latents(condition, draw.record, epoch, latents) for condition in conditions]
        for conditions, draw in zip(chosen, draws, strict=True)
    ]
    if len({tuple(one.shape for one in sample) for sample in samples}) > 1:
        raise DataError(
            f"data set '{dataset.id}': references of one batch have different sizes. Set its train_batch_size to 1 "
            f"and use gradient_accumulation_steps, or set their conditioning_type to reference_strict."
        )
    return {name(number): torch.stack(same) for number, same in enumerate(zip(*samples, strict=True))}


def of_image(dataset: Dataset, place: int, latents: Latents) -> dict[str, Tensor]:
    """All references of one image of a data set, with a batch axis of one; they are those of every epoch."""
    found = [_latents(one, place, 0, latents) for one in _references(dataset)]
    return {name(number): one[None] for number, one in enumerate(found)}


@dataclass(frozen=True)
class Example:
    """An image with references, whose references validation starts from."""

    dataset: Dataset
    name: str
    """Says which references they are."""


def example(datasets: Sequence[Dataset]) -> Example | None:
    """The first image of the first data set that has references."""
    for dataset in datasets:
        if found := _references(dataset):
            records = [one.dataset.records.at(0, 0) for one in found]
            return Example(dataset, "/".join(f"{record.digest}:{record.placement}" for record in records))
    return None


def _references(dataset: Dataset) -> list[Condition]:
    return [one for one in dataset.conditions if one.kind in KINDS]


def _chosen(dataset: Dataset, draw: Draw, sampling: str, seed: int) -> list[Condition]:
    known = _references(dataset)
    if sampling == COMBINED or len(known) < 2:
        return known
    return [known[derive(seed, "reference", draw.sample) % len(known)]]


def _latents(condition: Condition, place: int, epoch: int, latents: Latents) -> Tensor:
    mean, _ = latents.get(condition.dataset.id, condition.dataset.records.at(place, epoch))
    return mean
