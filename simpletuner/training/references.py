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
from simpletuner.training import channels

if TYPE_CHECKING:
    from torch import Tensor

RANDOM, COMBINED = "random", "combined"
"""Of several data sets of references, one is drawn for each image, or all are used."""


class Latents(Protocol):
    """Where latents come from."""

    def get(self, dataset: str, record: Record) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one image of a data set."""


def of_draws(
    dataset: Dataset,
    draws: Sequence[Draw],
    epoch: int,
    latents: Latents,
    *,
    sampling: str,
    seed: int,
    mirrored: Sequence[bool],
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
        mirrored: Whether left and right of each image are swapped, and so of what lies over it.

    Raises:
        DataError: References of one batch have different sizes.
    """
    import torch

    chosen = [_chosen(dataset, draw, sampling, seed) for draw in draws]
    samples = [
        [_latents(condition, draw.record, epoch, latents, mirrored=is_mirrored) for condition in conditions]
        for conditions, draw, is_mirrored in zip(chosen, draws, mirrored, strict=True)
    ]
    if len({tuple(one.shape for one in sample) for sample in samples}) > 1:
        raise DataError(
            f"data set '{dataset.id}': references of one batch have different sizes. Set its train_batch_size to 1 "
            f"and use gradient_accumulation_steps, or set their conditioning_type to reference_strict."
        )
    found = {name(number): torch.stack(same) for number, same in enumerate(zip(*samples, strict=True))}
    uses = [(draw.record, is_mirrored) for draw, is_mirrored in zip(draws, mirrored, strict=True)]
    return {**found, **channels.of_uses(dataset, uses, epoch, latents)}


def of_image(dataset: Dataset, place: int, latents: Latents) -> dict[str, Tensor]:
    """All references of one image of a data set, with a batch axis of one; they are those of every epoch."""
    found = [_latents(one, place, 0, latents) for one in _references(dataset)]
    over = channels.of_uses(dataset, [(place, False)], 0, latents)
    return {**{name(number): one[None] for number, one in enumerate(found)}, **over}


@dataclass(frozen=True)
class Example:
    """An image with references, whose references validation starts from."""

    dataset: Dataset
    name: str
    """Says which references they are."""

    @property
    def pictures(self) -> list[Condition]:
        """The data sets that the references are of."""
        return _references(self.dataset)

    @property
    def overlay(self) -> Condition | None:
        """What lies over the image as further channels."""
        return channels.overlay(self.dataset)


def example(datasets: Sequence[Dataset]) -> Example | None:
    """The first image of the first data set that has references."""
    for dataset in datasets:
        over = channels.overlay(dataset)
        if found := [*_references(dataset), *([over] if over else [])]:
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


def _latents(condition: Condition, place: int, epoch: int, latents: Latents, *, mirrored: bool = False) -> Tensor:
    records = condition.dataset.records
    mean, _ = latents.get(condition.dataset.id, records.at(place, epoch, mirrored=mirrored and records.mirrors))
    return mean
