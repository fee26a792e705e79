"""The loop: take a batch, ask the network, compare, step; checkpoint and validate on the way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner import seeds
from simpletuner.errors import CheckpointError, TrainingError
from simpletuner.models.adapters.adapter import FILE_NAME, Adapter, parameters_of
from simpletuner.progress import CheckpointSaved, Notice, Reporter, StepDone, TrainingStarted
from simpletuner.storage.local import LocalStore
from simpletuner.training import checkpoint, four_steps, objective
from simpletuner.training.batches import Batch, Batches
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.evaluation import Evaluation
from simpletuner.training.runtime import Runtime
from simpletuner.training.schedules import LearningRate
from simpletuner.training.validation import Validation

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from simpletuner.models.family import Denoiser
    from simpletuner.models.tread import TokenRouter
    from simpletuner.training.fused_backward import UpdatesInBackward
    from simpletuner.training.options import Objective, Optimization

RESOLVED_CONFIG = "simpletuner_config.json"


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and when it does what besides training."""

    total_steps: int
    epochs: int
    accumulation: int
    checkpoint_every: int
    validate_every: int
    evaluate_every: int = 0


@dataclass
class TrainState:
    """The only thing that changes while training besides weights and optimizer."""

    step: int = 0
    """Optimizer steps made so far."""


@dataclass(frozen=True)
class Trainer:
    """Everything one training run needs; `fit` runs it."""

    objective: Objective
    optimization: Optimization
    schedule: Schedule
    learning_rate: LearningRate
    denoiser: Denoiser
    adapter: Adapter
    optimizer: Optimizer
    batches: Batches
    validation: Validation
    checkpoints: Checkpoints
    runtime: Runtime
    reporter: Reporter
    shift: Callable[[int, int], float]
    """The noise shift for latents of a height and width."""
    router: TokenRouter | None = None
    evaluation: Evaluation | None = None
    fused: UpdatesInBackward | None = None
    """Present when weights are updated while gradients are made."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    resolved_config: str = "{}"
    data: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """For each data set how many images it has, and a fingerprint of them."""
    state: TrainState = field(default_factory=TrainState)

    def fit(self, resume_from: Path | None) -> Path:
        """Train to the last step; returns the path of the trained adapter."""
        if resume_from is not None:
            self._restore(resume_from)
        parameters = parameters_of(self.adapter)
        count = sum(parameter.numel() for parameter in parameters.values())
        self.reporter.report(TrainingStarted(self.state.step, self.schedule.total_steps, self.schedule.epochs, count))
        self.validation.draw_base(self.denoiser, self.adapter)
        self.denoiser.module.train()
        begun = self.state.step
        batches = self._remaining()
        while self.state.step < self.schedule.total_steps:
            self._train_step(batches, list(parameters.values()))
            self._after_step()
        if self.state.step > begun:
            self._save_checkpoint(unless_saved=True)
        adapter = self._save_adapter()
        if self.state.step > begun:
            self._validate(unless_drawn=True)
        return adapter

    def _remaining(self) -> Iterator[Batch]:
        each = self.schedule.accumulation
        return self.batches.ahead(range(self.state.step * each, self.schedule.total_steps * each))

    def _train_step(self, batches: Iterator[Batch], parameters: list[nn.Parameter]) -> None:
        started = time.perf_counter()
        losses, samples, epoch, regularised = [], 0, 0, 0
        rate = self.learning_rate.at(self.state.step)
        self._set_rate(rate)
        for _ in range(self.schedule.accumulation):
            batch = next(batches)
            losses.append(self._accumulate(batch))
            samples += len(batch.samples)
            epoch = batch.epoch
            regularised += batch.regularise
        norm = self._update(parameters)
        self.state.step += 1
        metrics = dict(self.adapter.after_step())
        metrics |= {"regularisation_share": regularised / len(losses)} if regularised else {}
        self.reporter.report(
            StepDone(
                step=self.state.step,
                total_steps=self.schedule.total_steps,
                epoch=epoch + 1,
                loss=sum(losses) / len(losses),
                learning_rate=rate,
                gradient_norm=norm,
                seconds=time.perf_counter() - started,
                samples=samples,
                metrics=metrics,
            )
        )

    def _accumulate(self, batch: Batch) -> float:
        self.runtime.reseed("dropout", batch.number)
        with self._routed(batch):
            loss = self.loss(batch)
            if self.fused is not None:
                self.runtime.reseed("rounding", self.state.step)
            self.runtime.backward(loss / self.schedule.accumulation)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(self._not_finite("loss", batch))
        return value

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch; for regularisation data the target is the frozen base's own answer."""
        import torch

        device = self.runtime.device
        image, noise = batch.latents.to(device), batch.noise.to(device)
        sigma = self._sigma(batch).to(device)
        noisy = objective.noised(image, noise, sigma)
        conditioning = {name: tensor.to(device) for name, tensor in batch.conditioning.items()}
        guidance = self._guidance(batch).to(device) if self.denoiser.uses_guidance else None
        target = objective.velocity(image, noise)
        with self.runtime.autocast():
            if batch.regularise:
                with torch.no_grad(), self.adapter.without():
                    target = self.denoiser.predict(noisy, sigma, conditioning, guidance)
            prediction = self.denoiser.predict(noisy, sigma, conditioning, guidance)
        mask = self._mask(batch)
        mask = None if mask is None else mask.to(device)
        return objective.squared_error(prediction, target, mask).mean() * batch.weight

    def _mask(self, batch: Batch) -> Tensor | None:
        """What of the latents is learned; a segmentation is used with a probability, drawn for each batch."""
        share = seeds.derive(self.runtime.seed, "segmentation", batch.number) / 2**63
        if batch.optional_mask is None or share >= self.objective.masked_loss_probability:
            return batch.mask
        return batch.optional_mask if batch.mask is None else batch.mask * batch.optional_mask

    def _sigma(self, batch: Batch) -> Tensor:
        if self.objective.flux_fast_schedule:
            return four_steps.levels(batch.normal)
        plain = objective.logit_normal(batch.normal, self.objective.flow_sigmoid_scale)
        height, width = batch.latents.shape[-2:]
        return objective.shifted(plain, self.shift(height, width))

    def _guidance(self, batch: Batch) -> Tensor:
        import torch

        options = self.objective
        if options.flux_guidance_mode == "constant":
            return torch.full_like(batch.uniform, options.flux_guidance_value)
        return options.flux_guidance_min + (options.flux_guidance_max - options.flux_guidance_min) * batch.uniform

    def _routed(self, batch: Batch) -> AbstractContextManager[None]:
        if self.router is None:
            return nullcontext()
        return self.router.step(lambda: self.runtime.generator("tread", batch.number), self._mask(batch))

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _update(self, parameters: list[nn.Parameter]) -> float:
        """Change the weights, unless that was done in the backward pass; returns the norm of the gradient."""
        if self.fused is None:
            norm = self.runtime.clip(parameters, self.optimization.max_grad_norm, self.optimization.grad_clip_method)
        else:
            norm = self.fused.norm()
        if not math.isfinite(norm):
            raise TrainingError(self._not_finite("gradient", None))
        if self.fused is None:
            self.runtime.reseed("rounding", self.state.step)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _after_step(self) -> None:
        if self.schedule.checkpoint_every and self.state.step % self.schedule.checkpoint_every == 0:
            self._save_checkpoint()
        if self.evaluation is not None and self.state.step % self.schedule.evaluate_every == 0:
            self.evaluation.measure(self.denoiser, self.state.step)
        if self.schedule.validate_every and self.state.step % self.schedule.validate_every == 0:
            self._validate()

    def _validate(self, unless_drawn: bool = False) -> None:
        every = self.schedule.validate_every
        if not (unless_drawn and every and self.state.step % every == 0):
            self.validation.draw(self.denoiser, self.state.step)

    def _save_checkpoint(self, unless_saved: bool = False) -> None:
        every = self.schedule.checkpoint_every
        if unless_saved and every and self.state.step % every == 0:
            return
        files = {
            FILE_NAME: self.adapter.encode(self._metadata()),
            "optimizer.safetensors": checkpoint.encode_state(self.optimizer.state_dict()),
            checkpoint.STATE: json.dumps(
                {
                    "global_step": self.state.step,
                    "seed": self.runtime.seed,
                    "optimizer": self.optimization.optimizer,
                    "data": self.data,
                }
            ).encode(),
            RESOLVED_CONFIG: self.resolved_config.encode(),
        }
        path = self.checkpoints.save(self.state.step, files)
        self.reporter.report(CheckpointSaved(self.state.step, str(path)))

    def _save_adapter(self) -> Path:
        LocalStore(self.checkpoints.folder).write(FILE_NAME, self.adapter.publish(self._metadata()))
        return self.checkpoints.folder / FILE_NAME

    def _metadata(self) -> dict[str, str]:
        return {**self.metadata, "global_step": str(self.state.step)}

    def _restore(self, path: Path) -> None:
        state = json.loads(checkpoint.read(path, checkpoint.STATE))
        if state["seed"] != self.runtime.seed:
            raise CheckpointError(
                f"'{path}' was made with seed {state['seed']}, this run has {self.runtime.seed}: the order of the data "
                f"would not go on where it stopped. Set seed to {state['seed']}, or resume_from_checkpoint to none."
            )
        if state["optimizer"] != self.optimization.optimizer:
            raise CheckpointError(
                f"'{path}' was made with optimizer {state['optimizer']}, this run has {self.optimization.optimizer}, "
                f"which cannot go on from its state. Set optimizer to {state['optimizer']}, or resume_from_checkpoint "
                f"to none."
            )
        self.adapter.load(self.adapter.decode(checkpoint.read(path, FILE_NAME)))
        own = [{name: one for name, one in group.items() if name != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(checkpoint.decode_state(checkpoint.read(path, "optimizer.safetensors")))
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)  # what the config says now, and not what it said then
        self.state.step = int(state["global_step"])
        self.reporter.report(Notice(f"resumed from {path.name}"))
        for text in self._changed_data(state.get("data", {})):
            self.reporter.report(Notice(text))

    def _changed_data(self, before: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
        """What is different in the data now, so that the run cannot go on exactly as it would have."""
        for id in before.keys() & self.data.keys():
            then, now = before[id], self.data[id]
            if then != now:
                had = f"had {then['images']} images and has {now['images']}"
                what = had if then["images"] != now["images"] else "has other images, or other sizes of them"
                yield f"data set '{id}' {what} now: from here on, the order of the images is another one"

    def _not_finite(self, what: str, batch: Batch | None) -> str:
        where = f"; the images were {', '.join(batch.keys)} of data set '{batch.dataset}'" if batch else ""
        return (
            f"the {what} of step {self.state.step + 1} is not a finite number{where}. Lower learning_rate, or set "
            f"mixed_precision to bf16 or no; the last checkpoint is unharmed."
        )
