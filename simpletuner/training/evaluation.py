"""The loss on images that are not trained on: always the same images, noise and noise levels, so it can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.data.dataset import Dataset
from simpletuner.progress import Evaluated, Reporter
from simpletuner.seeds import derive
from simpletuner.training import objective, references
from simpletuner.training.batches import Latents, Prompts
from simpletuner.training.runtime import Runtime, generator

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.family import Denoiser

_SEED = 0
"""Not that of the run: two runs are compared on the same noise."""


@dataclass(frozen=True)
class Evaluation:
    """Measures the loss on eval data sets."""

    datasets: Sequence[Dataset]
    latents: Latents
    prompts: Prompts
    runtime: Runtime
    reporter: Reporter
    shift: Callable[[int, int], float]
    """The noise shift for latents of a height and width."""
    guidance: float
    images: int
    """How many images of each data set are used, at most."""
    levels: int
    """At how many noise levels."""
    is_pooled: bool
    """Whether one number is given for all data sets together."""

    def measure(self, denoiser: Denoiser, step: int) -> None:
        """Measure, and report the mean loss of each data set; training goes on as if nothing had happened."""
        import torch

        was_training = denoiser.module.training
        denoiser.module.eval()
        with torch.no_grad(), self.runtime.autocast():
            found = {dataset.id: list(self._losses(dataset, denoiser)) for dataset in self.datasets}
        denoiser.module.train(was_training)
        if self.is_pooled:
            found = {"pooled": [loss for losses in found.values() for loss in losses]}
        means = {id: sum(losses) / len(losses) for id, losses in found.items()}
        margins = {id: margin(losses) for id, losses in found.items() if len(losses) > 1}
        self.reporter.report(Evaluated(step, means, margins))

    def _losses(self, dataset: Dataset, denoiser: Denoiser) -> Iterator[float]:
        """The loss of each image, over all noise levels: one image is one observation, however often it is asked."""
        import torch

        for place in self._chosen(dataset):
            record = dataset.records[place]
            latents, _ = self.latents.get(dataset.id, record)
            captions = record.captions or ("",)
            others = references.of_image(dataset, place, self.latents)
            losses: list[float] = []
            for levels in self._parts(dataset.batch_size):
                noise = torch.stack([_noise(latents, record.digest, level) for level in levels])
                losses += self._of_levels(latents, noise, levels, {**self._text(captions[0]), **others}, denoiser)
            yield sum(losses) / len(losses)

    def _text(self, caption: str) -> Mapping[str, Tensor]:
        return {name: one[None] for name, one in self.prompts[caption].items()}

    def _of_levels(
        self, latents: Tensor, noise: Tensor, levels: range, given: Mapping[str, Tensor], denoiser: Denoiser
    ) -> Sequence[float]:
        """The loss of one image at some noise levels."""
        import torch

        device = self.runtime.device
        image, noise = latents.expand_as(noise).to(device), noise.to(device)
        even = torch.tensor([(level + 0.5) / self.levels for level in levels])
        sigma = objective.shifted(even, self.shift(*latents.shape[-2:])).to(device)
        conditioning = {name: one.to(device).expand(len(levels), *one.shape[1:]) for name, one in given.items()}
        guidance = torch.full_like(sigma, self.guidance) if denoiser.uses_guidance else None
        prediction = denoiser.predict(objective.noised(image, noise, sigma), sigma, conditioning, guidance)
        losses: list[float] = objective.squared_error(prediction, objective.velocity(image, noise)).tolist()
        return losses

    def _parts(self, batch_size: int) -> Iterator[range]:
        for first in range(0, self.levels, batch_size):
            yield range(first, min(first + batch_size, self.levels))

    def _chosen(self, dataset: Dataset) -> list[int]:
        """The same images in every run, whatever else is in the data set."""
        keys = dataset.records.all_keys()
        ranked = sorted(range(len(keys)), key=lambda place: derive(_SEED, "evaluation", dataset.id, keys[place]))
        return sorted(ranked[: self.images])


def _noise(latents: Tensor, digest: str, level: int) -> Tensor:
    import torch

    return torch.randn(latents.shape, generator=generator(_SEED, "evaluation noise", digest, level))


def margin(losses: Sequence[float]) -> float:
    """How far the mean of all images of that kind is from the mean of these, with a chance of 95 %, at most.

    By Student's distribution, which knows that the spread itself is only seen in these few.
    """
    count = len(losses)
    mean = sum(losses) / count
    spread = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (count - 1))
    return quantile(count - 1) * spread / math.sqrt(count)


def quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, with an error below 0.001 (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(_FEW):
        return _FEW[freedom - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


_FEW = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
