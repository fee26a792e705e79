"""What the network is given for a batch, on its device, and how the model itself draws some of it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simpletuner.training import objective
from simpletuner.training.objective.solvers import walked

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.family import Denoiser
    from simpletuner.models.samplers import Solver


@dataclass(frozen=True)
class Scene:
    """What the network is given for a batch."""

    image: Tensor
    """Clean latents with shape (batch, channels, height, width)."""
    noise: Tensor
    """What is mixed into them, with the same shape."""
    noisy: Tensor
    """What the network sees."""
    sigma: Tensor
    """The noise level that it is told, with shape (batch,)."""
    conditioning: Mapping[str, Tensor]
    guidance: Tensor | None
    drawn_on: Tensor | None = None
    """Which samples the model itself drew on, with shape (batch,), where it did so."""

    def ask(self, denoiser: Denoiser) -> Tensor:
        """What the network says."""
        return denoiser.predict(self.noisy, self.sigma, self.conditioning, self.guidance)

    def drift(self) -> Tensor:
        """How far the model's own drawing lies from the straight way."""
        return self.noisy - objective.noised(self.image, self.noise, self.sigma)

    def sample(self, place: int) -> Scene:
        """One sample of the batch alone."""
        one = slice(place, place + 1)
        return Scene(
            image=self.image[one],
            noise=self.noise[one],
            noisy=self.noisy[one],
            sigma=self.sigma[one],
            conditioning={name: tensor[one] for name, tensor in self.conditioning.items()},
            guidance=None if self.guidance is None else self.guidance[one],
        )

    def with_drawn(self, samples: Mapping[int, Tensor]) -> Scene:
        """The same with what the model drew in the place of some samples."""
        noisy, drawn_on = self.noisy.clone(), self.sigma.new_zeros(self.sigma.shape)
        for place, drawn in samples.items():
            noisy[place], drawn_on[place] = drawn[0], 1
        return replace(self, noisy=noisy, drawn_on=drawn_on)


def draw_on(scene: Scene, levels: list[float], solver: Solver, denoiser: Denoiser) -> Tensor:
    """What the model draws of one sample from the first of some noise levels to the last."""

    def ask(latents: Tensor, sigma: float) -> Tensor:
        told = replace(scene, noisy=latents, sigma=scene.sigma.new_full((1,), sigma))
        return told.ask(denoiser).to(latents.dtype)

    start = objective.noised(scene.image, scene.noise, scene.sigma.new_full((1,), levels[0]))
    return walked(solver, start, levels, ask)
