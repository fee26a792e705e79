"""What models see of other pictures as further channels of the noisy image: the rest of it, or a picture to follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simpletuner.data import holes
from simpletuner.data.dataset import Condition, Dataset
from simpletuner.data.holes import Holed
from simpletuner.models.controlling import OVERLAY
from simpletuner.models.references import channel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from simpletuner.data.items import Record
    from simpletuner.training.references import Latents

KINDS = frozenset({holes.KIND, OVERLAY})
"""The kinds of conditions that lie over an image pixel by pixel."""


def of_uses(dataset: Dataset, uses: Sequence[tuple[int, bool]], epoch: int, latents: Latents) -> dict[str, Tensor]:
    """The further channels of some images as a part of their conditioning; nothing when the data set has none.

    Args:
        dataset: The one that the images are of.
        uses: The number of each image, and whether its left and right are swapped.
        epoch: In which they are used.
        latents: Where the latents of what lies over them are.
    """
    found = overlay(dataset)
    if found is None:
        return {}
    other = found.dataset
    records = [other.records.at(place, epoch, mirrored=is_mirrored) for place, is_mirrored in uses]
    return of_records(other, records, [latents.get(other.id, record)[0] for record in records])


def of_records(other: Dataset, records: Sequence[Record], latents: Sequence[Tensor]) -> dict[str, Tensor]:
    """The channels for the records of a data set that lies over another, whose latents are known."""
    import torch

    found = {channel(0): torch.stack(list(latents))}
    if isinstance(other, Holed):
        found[channel(1)] = torch.stack([_pixels_as_channels(other.holes(record)) for record in records])
    return found


def overlay(dataset: Dataset) -> Condition | None:
    """What lies over the images of a data set."""
    return next((one for one in dataset.conditions if one.kind in KINDS), None)


def _pixels_as_channels(holes: NDArray[np.bool_]) -> Tensor:
    """The eight by eight pixels under each latent as 64 channels, with shape (64, height, width) of the latents."""
    import torch
    from einops import rearrange

    return rearrange(torch.from_numpy(holes).float(), "(h y) (w x) -> (y x) h w", y=8, x=8)
