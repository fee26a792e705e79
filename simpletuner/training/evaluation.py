"""The loss on images that are not trained on: always the same images, noise and noise levels, so it can be compared."""

from __future__ import annotations

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
        self.reporter.report(Evaluated(step, self._means(found)))

    def _means(self, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
        if self.is_pooled:
            found = {"pooled": [loss for losses in found.values() for loss in losses]}
        return {id: sum(losses) / len(losses) for id, losses in found.items()}

    def _losses(self, dataset: Dataset, denoiser: Denoiser) -> Iterator[float]:
        import torch

        for place in self._chosen(dataset):
            record = dataset.records[place]
            latents, _ = self.latents.get(dataset.id, record)
            captions = record.captions or ("",)
            others = references.of_image(dataset, place, self.latents)
            for levels in self._parts(dataset.batch_size):
                noise = torch.stack([_noise(latents, record.digest, level) for level in levels])
                yield from self._of_levels(latents, noise, levels, {**self._text(captions[0]), **others}, denoiser)

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
