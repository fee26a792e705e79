"""Experiment trackers as readers of the run's events; one that fails is dropped with a warning, the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from simpletuner.errors import ConfigError, Problem
from simpletuner.progress import Evaluated, Event, ImagesSaved, Reporter, RunStarted, StepDone
from simpletuner.schema import Choice

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from wandb.sdk.wandb_run import Run as WandbRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Under which name a run appears in a tracker, and where its files go."""

    project: str
    run: str
    folder: Path


class TensorBoard:
    """TensorBoard files in the logging folder: scalars and validation images."""

    def __init__(self, identity: Identity) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter = SummaryWriter(str(identity.folder / "tensorboard"))

    def report(self, event: Event) -> None:
        """Write the scalars of a step, or the images of a validation."""
        if isinstance(event, StepDone):
            for name, value in scalars(event).items():
                self._writer.add_scalar(name, value, event.step)
        elif isinstance(event, Evaluated):
            for id, loss in event.losses.items():
                self._writer.add_scalar(f"loss/val/{id}", loss, event.step)
        elif isinstance(event, ImagesSaved):
            for name, image in pictures(event):
                self._writer.add_image(name, image, event.step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()


class WeightsAndBiases:
    """A run in Weights & Biases; honours WANDB_MODE, so it can stay offline."""

    def __init__(self, identity: Identity) -> None:
        import wandb

        identity.folder.mkdir(parents=True, exist_ok=True)
        self._run: WandbRun = wandb.init(
            project=identity.project, name=identity.run, dir=str(identity.folder), settings=wandb.Settings(silent=True)
        )

    def report(self, event: Event) -> None:
        """Log the config once, then scalars and images."""
        import wandb

        if isinstance(event, RunStarted):
            self._run.config.update(dict(event.config))
        elif isinstance(event, StepDone):
            self._run.log(dict(scalars(event)), step=event.step)
        elif isinstance(event, Evaluated):
            self._run.log({f"loss/val/{id}": loss for id, loss in event.losses.items()}, step=event.step)
        elif isinstance(event, ImagesSaved):
            shown = [wandb.Image(path, caption=prompt) for path, prompt in zip(event.paths, event.prompts, strict=True)]
            self._run.log({"validation": shown}, step=event.step)

    def close(self) -> None:
        """End the run in the tracker."""
        self._run.finish()


class Tracker(Protocol):
    """How a tracker is opened."""

    def __call__(self, identity: Identity) -> Reporter:
        """Open the tracker for one run."""


TRACKERS: Choice[Tracker] = Choice(
    "tracker",
    {"tensorboard": TensorBoard, "wandb": WeightsAndBiases},
    later={
        "comet_ml": "use tensorboard or wandb",
        "swanlab": "use tensorboard or wandb",
        "simpletuner": "use tensorboard; progress.jsonl is always written",
        "custom-tracker": "use tensorboard or wandb",
    },
)


def open_tracker(name: str, identity: Identity) -> Reporter:
    """Open one tracker so that nothing it does can end the run.

    Raises:
        ConfigError: The tracker's package is not installed; the message says which extra brings it.
    """
    try:
        return Guarded(name, lambda: TRACKERS[name](identity))
    except ImportError as error:
        advice = f"'{name}' is not installed ({error}); install it with: pip install 'simpletuner[trackers]'"
        raise ConfigError("the config", [Problem("report_to", advice)]) from error


class Guarded:
    """A tracker behind a fence: the first failure is logged and ends the tracking, never the run."""

    def __init__(self, name: str, opened: Callable[[], Reporter]) -> None:
        self._name = name
        self._tracker: Reporter | None = None
        with self._fence():
            self._tracker = opened()

    def report(self, event: Event) -> None:
        """Pass the event on."""
        if self._tracker is not None:
            with self._fence():
                self._tracker.report(event)

    def close(self) -> None:
        """Close the tracker."""
        if self._tracker is not None:
            with self._fence():
                self._tracker.close()

    @contextmanager
    def _fence(self) -> Iterator[None]:
        try:
            yield
        except ImportError:
            raise
        except Exception as error:  # a tracker is somebody else's code and service: whatever it raises, the run goes on
            logger.warning("%s stopped tracking: %s", self._name, error)
            self._tracker = None


def scalars(event: StepDone) -> Mapping[str, float]:
    """The numbers of a step under the names that trackers show."""
    return {
        "train_loss": event.loss,
        "learning_rate": event.learning_rate,
        "grad_norm": event.gradient_norm,
        "epoch": float(event.epoch),
        "seconds_per_step": event.seconds,
        **event.metrics,
    }


def pictures(event: ImagesSaved) -> Iterator[tuple[str, object]]:
    """The validation images as arrays with shape (height, width, 3), each with a name that every step has."""
    import numpy as np
    from PIL import Image

    for path, prompt in zip(event.paths, event.prompts, strict=True):
        with Image.open(path) as image:
            name = Path(path).stem.removeprefix(f"step_{event.step}_")
            yield f"{name}: {prompt[:80]}", np.asarray(image.convert("RGB"))
