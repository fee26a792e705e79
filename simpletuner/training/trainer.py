"""The loop: take a batch, ask the network, compare, step; checkpoint and validate on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.data.pace import Pace
from simpletuner.errors import Elsewhere, TrainingError
from simpletuner.models.trained import Trained, parameters_of
from simpletuner.progress import Notice, Reporter, StepDone, TrainingStarted
from simpletuner.training import signals
from simpletuner.training.batches import Batch, Batches
from simpletuner.training.evaluation import Evaluation
from simpletuner.training.gauges import Gauges
from simpletuner.training.guards import Guards
from simpletuner.training.learning import Learning
from simpletuner.training.runtime import Runtime
from simpletuner.training.saving import Saving
from simpletuner.training.schedule import Schedule
from simpletuner.training.updates import Updates
from simpletuner.training.validation import Validation

if TYPE_CHECKING:
    from torch import nn

    from simpletuner.models.family import Denoiser


@dataclass(frozen=True)
class Done:
    """A batch that was worked on, by whichever process."""

    number: int
    epoch: int
    loss: float
    dataset: str
    keys: tuple[str, ...]
    regularise: bool
    work: float
    """Floating point operations of one forward pass."""


@dataclass
class TrainState:
    """The only thing that changes while training besides weights and optimizer."""

    step: int = 0
    """Optimizer steps made so far."""


@dataclass(frozen=True)
class Trainer:
    """Everything one training run needs; `fit` runs it."""

    schedule: Schedule
    denoiser: Denoiser
    trained: Trained
    batches: Batches
    learning: Learning
    updates: Updates
    saving: Saving
    validation: Validation
    runtime: Runtime
    reporter: Reporter
    pace: Pace
    guards: Guards
    gauges: Gauges
    evaluation: Evaluation | None = None
    state: TrainState = field(default_factory=TrainState)

    def fit(self, resume_from: Path | None) -> Path:
        """Train to the last step; returns the path of the trained weights."""
        # Before a checkpoint is put back: a model whose own weights are trained is the base only until then.
        self.runtime.group.first(lambda: self.validation.draw_base(self.denoiser, self.trained))
        if resume_from is not None:
            self.state.step = self.saving.restore(resume_from)
            self._tell_if_over()
        parameters = list(parameters_of(self.trained).values())
        self.runtime.group.copy_weights(parameters)
        count = sum(parameter.numel() for parameter in parameters)
        self.reporter.report(TrainingStarted(self.state.step, self.schedule.total_steps, self.schedule.epochs, count))
        if self.validation.draws_first or self._owes_pictures():
            self._validate()
        self.denoiser.module.train()
        begun = self.state.step
        batches = self._remaining()
        with signals.heard(self.saving.wishes):
            while self.state.step < self.schedule.total_steps:
                self._train_step(batches, parameters)
                self._after_step()
            result = self.runtime.group.first(lambda: self.saving.publish(self.state.step))
            if self.state.step > begun:
                self.saving.at_end(self.state.step)
        if self.state.step > begun:
            self._validate_at_end()
        return result

    def _tell_if_over(self) -> None:
        step, last = self.state.step, self.schedule.total_steps
        if step >= last:
            self.reporter.report(Notice(f"nothing is left to train: this is step {step}, and the run ends at {last}"))

    def _owes_pictures(self) -> bool:
        """Whether an earlier part of the run was stopped between its last checkpoint and the pictures of that step."""
        step = self.state.step
        is_due = self.validation.is_due(step) or step >= self.schedule.total_steps
        return step > 0 and is_due and not self.runtime.group.first(lambda: self.validation.has_drawn(step))

    def _remaining(self) -> Iterator[Batch]:
        """The batches that are left for this process."""
        place = self.runtime.group.place
        steps = (self.state.step, self.schedule.total_steps)
        return self.batches.ahead(self.pace.share(*steps, rank=place.rank, processes=place.processes))

    def _train_step(self, batches: Iterator[Batch], parameters: list[nn.Parameter]) -> None:
        started = time.perf_counter()
        rate = self.updates.begin(self.state.step)
        shares = self.runtime.group.every(lambda: self._worked(batches))
        done = sorted((one for share in shares for one in share), key=lambda one: one.number)
        norm = self._update(parameters, done)
        self.state.step += 1
        followed = self.trained.after_step()  # after one that is left out too: averages and ramps count all steps
        if norm is None:
            return
        seconds = time.perf_counter() - started
        self.reporter.report(
            StepDone(
                step=self.state.step,
                total_steps=self.schedule.total_steps,
                epoch=done[-1].epoch + 1,
                loss=sum(one.loss for one in done) / len(done),
                learning_rate=rate,
                gradient_norm=norm,
                seconds=seconds,
                samples=sum(len(one.keys) for one in done),
                metrics={**followed, **self._metrics(done, seconds)},
            )
        )

    def _metrics(self, done: Sequence[Done], seconds: float) -> dict[str, float]:
        """What else is to be told about a step."""
        regularised = sum(one.regularise for one in done)
        metrics = self.updates.metrics()
        metrics |= {"regularisation_share": regularised / len(done)} if regularised else {}
        return {**metrics, **self.gauges.read([one.work for one in done], seconds)}

    def _worked(self, batches: Iterator[Batch]) -> list[Done]:
        """Work on the batches of a step that are for this process."""
        return [self._done(one) for one in islice(batches, self.schedule.accumulation)]

    def _done(self, batch: Batch) -> Done:
        return Done(
            number=batch.number,
            epoch=batch.epoch,
            loss=self.accumulate(batch),
            dataset=batch.dataset,
            keys=batch.keys,
            regularise=batch.regularise,
            work=self.learning.work(batch),
        )

    def accumulate(self, batch: Batch) -> float:
        """Add the gradients of one batch; returns its loss."""
        self.runtime.reseed("dropout", batch.number)
        with self.learning.routed(batch):
            loss = self.learning.loss(batch)
            self.updates.backward(loss / self.pace.now, self.state.step)
        return float(loss.detach())

    def _update(self, parameters: list[nn.Parameter], done: Sequence[Done]) -> float | None:
        """Change the weights; returns the norm of the gradient, or nothing when the step is left out."""
        self.runtime.group.add_gradients(parameters)
        norm = self.updates.norm(parameters)
        if not self._admitted(done, norm):
            self.updates.forget()
            return None
        self.updates.apply(self.state.step)
        return norm

    def _admitted(self, done: Sequence[Done], norm: float) -> bool:
        """Whether the weights may change; all processes see the same numbers, and the first one tells of them."""
        try:
            return self.guards.admit(self.state.step + 1, done, norm)
        except TrainingError as error:
            if self.runtime.group.place.rank:
                raise Elsewhere(str(error)) from error
            raise

    def _after_step(self) -> None:
        self.saving.after_step(self.state.step)
        if self.evaluation is not None and self.state.step % self.schedule.evaluate_every == 0:
            evaluation, step = self.evaluation, self.state.step
            with self.updates.evaluating():
                self.runtime.group.first(lambda: evaluation.measure(self.denoiser, step))
        if self._validates_now():
            self._validate()
            self.saving.stop_if_asked(self.state.step)
        if self.schedule.release_every and self.state.step % self.schedule.release_every == 0:
            self.runtime.release()

    def _validates_now(self) -> bool:
        """Whether validation is due, and can be done before the last checkpoint is written."""
        is_last = self.state.step >= self.schedule.total_steps
        return self.validation.is_due(self.state.step) and not (is_last and self.validation.reads_checkpoints)

    def _validate_at_end(self) -> None:
        if not self._validates_now():
            self._validate()

    def _validate(self) -> None:
        with self.updates.evaluating():
            self.runtime.group.first(self._draw)

    def _draw(self) -> None:
        wishes = self.saving.wishes
        self.validation.draw(self.denoiser, self.trained, self.state.step, is_over=lambda: wishes.stop > 0)
