"""How weights change: the rate of a step, the limit of the gradient, and the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from simpletuner.errors import CheckpointError, TrainingError
from simpletuner.training import optimizers
from simpletuner.training.optimizers import OPTIMIZERS, Recipe
from simpletuner.training.runtime import Runtime
from simpletuner.training.schedules import LearningRate

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from simpletuner.training.fused_backward import UpdatesInBackward
    from simpletuner.training.optimizers.recipe import Averaging
    from simpletuner.training.options import Optimization


@dataclass(frozen=True)
class Updates:
    """Changes the trained weights."""

    options: Optimization
    optimizer: Optimizer
    learning_rate: LearningRate
    runtime: Runtime
    made_with: Sequence[Mapping[str, Any]]
    """The settings of each group of weights before the first step."""
    fused: UpdatesInBackward | None = None
    """Present when weights are updated while gradients are made."""

    @property
    def recipe(self) -> Recipe:
        """What is known of the optimizer."""
        return OPTIMIZERS[self.options.optimizer]

    def begin(self, step: int) -> float:
        """Set the learning rate of a step; returns it."""
        rate = self.learning_rate.at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        return rate

    def backward(self, loss: Tensor, step: int) -> None:
        """Add the gradients of a loss, and with a fused update change the weights."""
        if self.fused is not None:
            self.runtime.reseed("rounding", step)
        self.runtime.backward(loss)

    def norm(self, parameters: Sequence[nn.Parameter]) -> float:
        """Limit the gradients of a step; returns their norm before that."""
        if self.fused is not None:
            return self.fused.norm()
        return self.runtime.clip(parameters, self.options.gradient_limit, self.options.grad_clip_method)

    def apply(self, step: int) -> None:
        """Change the weights, unless that was done in the backward pass, and forget the gradients."""
        if self.fused is None:
            self.runtime.reseed("rounding", step)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def forget(self) -> None:
        """Leave the weights as they are, and forget the gradients.

        Raises:
            TrainingError: The weights were changed in the backward pass.
        """
        if self.fused is not None:
            raise TrainingError(
                "a step cannot be left out that changed the weights while gradients were made. Set "
                "fused_backward_pass to false, or non_finite_action to stop."
            )
        self.optimizer.zero_grad(set_to_none=True)

    def metrics(self) -> dict[str, float]:
        """What the optimizer found out by itself."""
        name = self.recipe.reports
        return {name: float(self.optimizer.param_groups[0]["d"])} if name else {}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the weights are those to be used and saved: a schedule-free optimizer trains others.

        Afterwards they are what they were, bit for bit: switching back by arithmetic would round, and a run that
        draws pictures more often would be another run.
        """
        if not self.recipe.averages:
            yield
            return
        import torch

        kept = [one.detach().to("cpu", copy=True) for one in self._weights()]
        averaging = cast("Averaging", self.optimizer)
        averaging.eval()
        try:
            yield
        finally:
            averaging.train()
            with torch.no_grad():
                for weight, value in zip(self._weights(), kept, strict=True):
                    weight.copy_(value)

    def state(self) -> dict[str, Any]:
        """What the optimizer remembers; of a schedule-free one also the weights that it trains."""
        trains = {"weights": [one.detach() for one in self._weights()]} if self.recipe.averages else {}
        return {**self.optimizer.state_dict(), "made_with": list(self.made_with), **trains}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what the optimizer remembered, with the settings that the config has now.

        Raises:
            CheckpointError: It remembers other weights than are trained now.
        """
        import torch

        rest = dict(state)
        before, weights = rest.pop("made_with", None), rest.pop("weights", [])
        try:
            origins = optimizers.restore(self.optimizer, rest)
        except ValueError as error:
            raise CheckpointError(f"{_OTHER_WEIGHTS} ({error})") from error
        for group, origin, now in zip(self.optimizer.param_groups, origins, self.made_with, strict=True):
            group.update(_changed(before[origin] if before else {}, now))
        with torch.no_grad():
            for weight, value in zip(self._weights() if weights else (), weights, strict=True):
                weight.copy_(value)

    def _weights(self) -> list[nn.Parameter]:
        return [one for group in self.optimizer.param_groups for one in group["params"]]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the user changed; the others may be where the optimizer counts, so they stay as they were."""
    return {name: value for name, value in now.items() if name != "params" and before.get(name, _ABSENT) != value}


_ABSENT = object()

_OTHER_WEIGHTS = (
    "the checkpoint cannot be resumed: its optimizer updated other weights than are trained now. Train the same ones, "
    "or set resume_from_checkpoint to none"
)
