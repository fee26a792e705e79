"""Experiment trackers as readers of the run's events; one that fails is dropped with a warning, the run goes on."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from simpletuner.errors import ConfigError, Problem
from simpletuner.progress import Evaluated, Event, ImagesSaved, Reporter, RunStarted, Scored, StepDone
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
        elif isinstance(event, Evaluated | Scored):
            for name, value in judgement(event).items():
                self._writer.add_scalar(name, value, event.step)
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
        _log(self._run, event, self._shown)

    def _shown(self, event: ImagesSaved) -> dict[str, Any]:
        import wandb

        pairs = zip(event.paths, event.prompts, strict=True)
        return {"validation": [wandb.Image(path, caption=prompt) for path, prompt in pairs]}

    def close(self) -> None:
        """End the run in the tracker."""
        self._run.finish()


class Trackio:
    """A run in Trackio, whose pages are looked at with: trackio show."""

    def __init__(self, identity: Identity) -> None:
        import trackio

        with _silence():
            self._run = trackio.init(identity.project, identity.run, auto_log_gpu=False, auto_log_cpu=False)

    def report(self, event: Event) -> None:
        """Log the config once, then scalars and images."""
        _log(self._run, event, self._shown)

    def _shown(self, event: ImagesSaved) -> dict[str, Any]:
        import trackio

        pairs = zip(event.paths, event.prompts, strict=True)
        return {Path(path).stem: trackio.Image(path, caption=prompt) for path, prompt in pairs}

    def close(self) -> None:
        """Write out what is buffered."""
        with _silence():
            self._run.finish()


class _Run(Protocol):
    """What wandb and the trackers that are like it log to."""

    config: Any

    def log(self, values: dict[str, Any], *, step: int) -> None:
        """Keep values of a step."""


def _log(run: _Run, event: Event, shown: Callable[[ImagesSaved], dict[str, Any]]) -> None:
    """Log the config once, then scalars, and images as the tracker shows them."""
    if isinstance(event, RunStarted):
        run.config.update(dict(event.config))
    elif isinstance(event, StepDone):
        run.log(dict(scalars(event)), step=event.step)
    elif isinstance(event, Evaluated | Scored):
        run.log(dict(judgement(event)), step=event.step)
    elif isinstance(event, ImagesSaved):
        run.log(shown(event), step=event.step)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep a library from writing to the terminal, which belongs to the console."""
    with redirect_stdout(io.StringIO()):
        yield


class Tracker(Protocol):
    """How a tracker is opened."""

    def __call__(self, identity: Identity) -> Reporter:
        """Open the tracker for one run."""


TRACKERS: Choice[Tracker] = Choice(
    "tracker",
    {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio},
    later={
        "comet_ml": "use tensorboard, wandb or trackio",
        "swanlab": "use tensorboard, wandb or trackio",
        "simpletuner": "use tensorboard; progress.jsonl is always written",
        "custom-tracker": "use tensorboard, wandb or trackio",
    },
)


_EXTRAS = {"tensorboard": "trackers", "wandb": "trackers", "trackio": "trackio"}


def is_installed(name: str) -> bool:
    """Whether the package of a tracker, which has its name, is there."""
    return find_spec(name) is not None


def missing(names: Iterable[str]) -> Iterator[Problem]:
    """The trackers among these whose package is not there."""
    for name in names:
        if name in TRACKERS and not is_installed(name):
            advice = f"install it with: pip install 'simpletuner[{_EXTRAS[name]}]'"
            yield Problem("report_to", f"'{name}' is not installed; {advice}")


def wrong_project(names: Iterable[str], project: str) -> Iterator[Problem]:
    """A name of the project that one of these trackers does not take."""
    wrong = [letter for letter in "/\\#?%:" if letter in project]
    if wrong and "wandb" in names:
        what = f"'{project}' has {' and '.join(wrong)} in it, which wandb does not take; change it"
        yield Problem("tracker_project_name", what)


def open_tracker(name: str, identity: Identity) -> Reporter:
    """Open one tracker so that nothing it does can end the run.

    Raises:
        ConfigError: The tracker's package is not installed; the message says which extra brings it.
    """
    try:
        return Guarded(name, lambda: TRACKERS[name](identity))
    except ImportError as error:
        advice = f"'{name}' is not installed ({error}); install it with: pip install 'simpletuner[{_EXTRAS[name]}]'"
        raise ConfigError("the config", [Problem("report_to", advice)]) from error


class Guarded:
    """A tracker behind a fence: the first failure is logged and ends the tracking, never the run."""

    def __init__(self, name: str, opened: Callable[[], Reporter]) -> None:
        self._name = name
        self._tracker: Reporter | None = None
        with self._fence(ImportError):
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
    def _fence(self, *lets_through: type[Exception]) -> Iterator[None]:
        try:
            yield
        except lets_through:
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


def judgement(event: Evaluated | Scored) -> Mapping[str, float]:
    """The numbers that say how good a model is, under the names that trackers show."""
    if isinstance(event, Scored):
        return {f"clip/{name}": value for name, value in event.summary.items()}
    return {
        **{f"loss/val/{id}": loss for id, loss in event.losses.items()},
        **{f"loss/val/{id}/margin": margin for id, margin in event.margins.items()},
    }


def pictures(event: ImagesSaved) -> Iterator[tuple[str, object]]:
    """The validation images as arrays with shape (height, width, 3), each with a name that every step has."""
    import numpy as np
    from PIL import Image

    for path, prompt in zip(event.paths, event.prompts, strict=True):
        with Image.open(path) as image:
            name = Path(path).stem.removeprefix(f"step_{event.step}_")
            yield f"{name}: {prompt[:80]}", np.asarray(image.convert("RGB"))
