"""The loss of one batch: what the network sees, what it should answer, and how far its answer is off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from simpletuner import seeds
from simpletuner.training import objective
from simpletuner.training.batches import Batch
from simpletuner.training.draws import Draws
from simpletuner.training.objective import levels, losses, noise, rollout, weighting
from simpletuner.training.objective.path import PREDICTIONS, per_sample, slowed
from simpletuner.training.objective.solvers import SOLVERS
from simpletuner.training.runtime import Runtime
from simpletuner.training.scene import Scene, draw_on

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.family import Conditioning, Denoiser
    from simpletuner.models.trained import Trained
    from simpletuner.models.tread import TokenRouter
    from simpletuner.training.options import Objective
    from simpletuner.training.texts import Texts


@dataclass(frozen=True)
class Learning:
    """What is learned from a batch."""

    options: Objective
    denoiser: Denoiser
    trained: Trained
    runtime: Runtime
    shift: Callable[[int, int], float]
    """The noise shift for latents of a height and width."""
    router: TokenRouter | None = None
    """Present when tokens are routed around blocks."""
    texts: Texts | None = None
    """Present when text encoders are trained too."""
    known_work: dict[tuple[int, ...], float] = field(default_factory=dict)
    """What a forward pass costs, by the sizes of what the network is given; counting takes a moment."""

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch; for regularisation data the target is the frozen base's own answer."""
        device, draws = self.runtime.device, self._draws(batch)
        image = batch.latents.to(device)
        sought = noise.prepared(self.options, batch.noise.to(device), image, draws)
        scene = self._scene(batch, image, noise.perturbed(self.options, sought, draws, batch.step))
        target = objective.velocity(image, sought)
        with self.runtime.autocast():
            scene = self._drawn_on(batch, scene)
            if batch.regularise:
                target = self._answer_of_base(batch, scene)
            answer = scene.ask(self.denoiser)
        return self._distance(batch, scene, answer, target).mean() * batch.weight

    def routed(self, batch: Batch) -> AbstractContextManager[None]:
        """Tokens take their routes inside the ``with``, which is around loss and backward pass."""
        if self.router is None:
            return nullcontext()
        return self.router.step(lambda: self.runtime.generator("tread", batch.number), self._mask(batch))

    def work(self, batch: Batch) -> float:
        """Floating point operations in one forward pass of the batch."""
        height, width = batch.latents.shape[-2:]
        sizes = tuple(length for one in batch.conditioning.values() for length in one.shape)
        if (height, width, *sizes) not in self.known_work:
            each = self.denoiser.work(height, width, batch.conditioning)
            self.known_work[height, width, *sizes] = each * len(batch.samples)
        return self.known_work[height, width, *sizes]

    def sigma(self, batch: Batch) -> Tensor:
        """The noise level of every sample, with shape (batch,), in float32."""
        chances = levels.Chances(batch.normal, batch.samples, batch.timestep_offset)
        return levels.drawn(self.options, chances, self.shift(*batch.latents.shape[-2:]))

    def _scene(self, batch: Batch, image: Tensor, seen: Tensor) -> Scene:
        device = self.runtime.device
        sigma = self.sigma(batch).to(device)
        place = sigma
        if self.options.mixflow_enabled:
            place = slowed(sigma, self._draws(batch).uniform("slowing"), self.options.mixflow_gamma)
        return Scene(
            image=image,
            noise=seen,
            noisy=objective.noised(image, seen, place),
            sigma=sigma,
            conditioning=self._told(batch, {name: one.to(device) for name, one in batch.conditioning.items()}),
            guidance=self._guidance(batch).to(device) if self.denoiser.uses_guidance else None,
        )

    def _told(self, batch: Batch, known: Conditioning) -> Conditioning:
        """What the network is told: what is known already, and what text encoders that are trained make of it now."""
        return known if self.texts is None else {**known, **self.texts.learned(batch.captions)}

    def _answer_of_base(self, batch: Batch, scene: Scene) -> Tensor:
        """What the frozen base says about the very same input."""
        import torch

        with torch.no_grad(), self.trained.without():
            told = replace(scene, conditioning=self._told(batch, scene.conditioning))
            return self._compared(scene, told.ask(self.denoiser))

    def _distance(self, batch: Batch, scene: Scene, answer: Tensor, target: Tensor) -> Tensor:
        """How far the answer to each sample is off, with shape (batch,)."""
        found = losses.distances(self.options, self._compared(scene, answer), target, scene.sigma)
        weights = weighting.weights(self.options, per_sample(scene.sigma, found))
        found = found if weights is None else found * weights
        if not self.options.scheduled_sampling_reflexflow or scene.drawn_on is None:
            return self._mean(batch, found)
        return self._against_drift(batch, scene, answer, found)

    def _against_drift(self, batch: Batch, scene: Scene, answer: Tensor, found: Tensor) -> Tensor:
        """The same, where samples that the model drew on also count by how far they drifted (ReflexFlow)."""
        options, drawn_on = self.options, scene.drawn_on
        assert drawn_on is not None
        wanted, said = (scene.noisy - scene.image).to(found.dtype), answer.to(found.dtype)
        mask = self._shown(batch, found)
        aside = rollout.direction_error(said, wanted, mask)
        weighted = self._mean(batch, found * rollout.drift_weights(options, scene.drift().to(found.dtype)))
        beta1, beta2 = options.scheduled_sampling_reflexflow_beta1, options.scheduled_sampling_reflexflow_beta2
        return (beta2 * weighted + beta1 * aside).where(drawn_on > 0, self._mean(batch, found))

    def _compared(self, scene: Scene, answer: Tensor) -> Tensor:
        return PREDICTIONS[self.options.flow_prediction_mode](answer, scene.noisy, scene.sigma)

    def _mean(self, batch: Batch, distances: Tensor) -> Tensor:
        return losses.mean(distances, self._shown(batch, distances), by_area=self.options.masked_loss_by_area)

    def _shown(self, batch: Batch, like: Tensor) -> Tensor | None:
        mask = self._mask(batch)
        return None if mask is None else mask.to(like.device)

    def _drawn_on(self, batch: Batch, scene: Scene) -> Scene:
        """The scene with some samples drawn on by the model; each alone, so that it does not depend on the others."""
        share = rollout.share(self.options, batch.step)
        chosen = (self._draws(batch).uniform("drawing on") < share).nonzero().flatten().tolist() if share else []
        if not chosen or batch.regularise:  # what the base says counts, wherever it is asked
            return scene
        chances = self._draws(batch).uniform("steps of drawing on").tolist()
        with self._drawing():
            drawn = {place: self._drawn(scene.sample(place), chances[place]) for place in chosen}
        return scene.with_drawn(drawn)

    def _drawn(self, sample: Scene, chance: float) -> Tensor:
        options = self.options
        shift = self.shift(*sample.image.shape[-2:])
        way = rollout.way(float(sample.sigma), shift, rollout.length(options, chance))
        solver = SOLVERS[options.scheduled_sampling_sampler](options.scheduled_sampling_order)
        return draw_on(sample, way, solver, self.denoiser)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """A moment in which the network works as it does when pictures are drawn."""
        import torch

        network, router = self.denoiser.module, self.router
        was_training = network.training
        network.eval()
        try:
            with torch.no_grad(), router.resting() if router else nullcontext():
                yield
        finally:
            network.train(was_training)
            # Autocast of older torch would go on with the copies of weights made here, through which no gradient goes.
            torch.clear_autocast_cache()

    def _draws(self, batch: Batch) -> Draws:
        return Draws(self.runtime.seed, batch.samples)

    def _mask(self, batch: Batch) -> Tensor | None:
        """What of the latents is learned; a segmentation is used with a probability, drawn for each batch."""
        share = seeds.derive(self.runtime.seed, "segmentation", batch.number) / 2**63
        if batch.optional_mask is None or share >= self.options.masked_loss_probability:
            return batch.mask
        return batch.optional_mask if batch.mask is None else batch.mask * batch.optional_mask

    def _guidance(self, batch: Batch) -> Tensor:
        import torch

        options = self.options
        if options.flux_guidance_mode == "constant":
            return torch.full_like(batch.uniform, options.flux_guidance_value)
        return options.flux_guidance_min + (options.flux_guidance_max - options.flux_guidance_min) * batch.uniform
