"""What is said about an event: one message for all services, and how each of them writes it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simpletuner.progress import (
    CheckpointSaved,
    Evaluated,
    Event,
    Failed,
    Finished,
    ImagesSaved,
    Notice,
    Paused,
    PreviewDrawn,
    Published,
    RunStarted,
    Scored,
    StageStarted,
    StepDone,
    TrainingStarted,
)

LEVELS = ("debug", "info", "warning", "error", "critical")
_LONGEST, _MOST_FILES = 1900, 10
"""What Discord takes in one message."""


@dataclass(frozen=True)
class Message:
    """What a service is told."""

    kind: str
    """The type of the event, in SimpleTuner's words."""
    level: str
    text: str
    data: Mapping[str, object] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    """Paths of pictures that go with it."""
    is_frequent: bool = False
    """Whether it may be left out when another one of its kind was sent a moment ago."""


@dataclass(frozen=True)
class Request:
    """One message as it goes over the wire."""

    body: Mapping[str, Any]
    """Arguments of httpx: ``json``, or ``data`` and ``files``."""
    headers: Mapping[str, str] = field(default_factory=dict)


def message(event: Event) -> Message | None:
    """What is said about an event; nothing for most."""
    said = _SAID.get(type(event))
    return None if said is None else said(event)


def discord(said: Message, prefix: str) -> Request:
    """A text with up to ten pictures."""
    text = f"{prefix}: {said.text}"[:_LONGEST]
    payload = {"content": text, "allowed_mentions": {"parse": []}}
    pictures = {f"files[{number}]": (path.name, data) for number, (path, data) in enumerate(_read(said.images))}
    if not pictures:
        return Request({"json": payload})
    return Request({"data": {"payload_json": json.dumps(payload)}, "files": pictures})


def raw(said: Message, prefix: str, *, run: str, time: float, token: str | None) -> Request:
    """An event as JSON, with its pictures in base64."""
    body = {
        "type": said.kind,
        "job_id": run,
        "timestamp": round(time, 3),
        "severity": said.level,
        "title": prefix,
        "message": said.text,
        "data": _written(said.data),
        "images": [base64.b64encode(data).decode() for _, data in _read(said.images)],
    }
    return Request({"json": body}, {"X-API-Key": token} if token else {})


def _written(value: object) -> object:
    """The same as JSON can hold it, which knows no number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _written(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(paths: Sequence[str]) -> list[tuple[Path, bytes]]:
    """The pictures that are still there."""
    return [(path, path.read_bytes()) for path in map(Path, paths[:_MOST_FILES]) if path.is_file()]


def _started(event: RunStarted) -> Message:
    return Message("lifecycle.stage", "info", "the run begins", {"key": "start", "status": "running"})


def _stage(event: StageStarted) -> Message:
    progress = {"current": 0, "total": event.total}
    data = {"key": event.stage.replace(" ", "_"), "label": event.stage, "status": "running", "progress": progress}
    return Message("lifecycle.stage", "debug", event.stage, data)


def _training(event: TrainingStarted) -> Message:
    data = {"status": "running", "progress": {"current": event.step, "total": event.total_steps}}
    return Message("training.status", "info", f"training from step {event.step} to {event.total_steps}", data)


def _step(event: StepDone) -> Message:
    left = (event.total_steps - event.step) * event.seconds
    metrics = {
        "loss": event.loss,
        "learning_rate": event.learning_rate,
        "grad_norm": event.gradient_norm,
        "epoch": event.epoch,
        **event.metrics,
    }
    progress = {
        "current": event.step,
        "total": event.total_steps,
        "percent": round(100 * event.step / event.total_steps, 2),
        "eta_seconds": round(left, 1),
        "metrics": metrics,
    }
    text = f"step {event.step} of {event.total_steps}, loss {event.loss:.4f}"
    return Message("training.status", "debug", text, {"status": "running", "progress": progress}, is_frequent=True)


def _evaluated(event: Evaluated) -> Message:
    told = ", ".join(f"{id} {loss:.4f}" for id, loss in event.losses.items())
    data = {"step": event.step, "losses": dict(event.losses)}
    return Message("training.validation", "info", f"loss on eval data at step {event.step}: {told}", data)


def _images(event: ImagesSaved) -> Message:
    data = {"step": event.step, "prompts": list(event.prompts)}
    return Message("training.validation", "info", f"pictures of step {event.step}", data, event.paths)


def _preview(event: PreviewDrawn) -> Message:
    label = f"{event.number}/{event.steps}"
    data = {"step": event.step, "prompt": event.prompt, "step_label": label}
    return Message("validation.image", "info", f"step {event.step}, {label}: {event.prompt}", data, (event.path,))


def _scored(event: Scored) -> Message:
    told = ", ".join(f"{name} {score:.4f}" for name, score in event.summary.items())
    data = {"step": event.step, "scores": dict(event.scores), "summary": dict(event.summary)}
    return Message("training.validation", "info", f"how well pictures of step {event.step} fit: {told}", data)


def _paused(event: Paused) -> Message:
    return Message("training.status", "warning", event.message, {"status": "paused"})


def _checkpoint(event: CheckpointSaved) -> Message:
    name = Path(event.path).name
    data = {"path": name, "label": name, "is_final": False}
    return Message("training.checkpoint", "info", f"checkpoint of step {event.step}", data)


def _notice(event: Notice) -> Message:
    return Message("notification", "warning", event.text)


def _published(event: Published) -> Message:
    return Message("notification", "info", f"published: {event.url}", {"url": event.url})


def _failed(event: Failed) -> Message:
    return Message("error", "critical", f"the run ended with an error: {event.message}", {"status": "failed"})


def _finished(event: Finished) -> Message:
    data = {"status": "completed", "progress": {"current": event.step, "total": event.step, "percent": 100.0}}
    return Message("training.status", "info", f"the run is finished after {event.step} steps", data)


_SAID: Mapping[type[Event], Callable[[Any], Message]] = {
    RunStarted: _started,
    StageStarted: _stage,
    TrainingStarted: _training,
    StepDone: _step,
    Evaluated: _evaluated,
    ImagesSaved: _images,
    PreviewDrawn: _preview,
    Scored: _scored,
    Paused: _paused,
    CheckpointSaved: _checkpoint,
    Notice: _notice,
    Published: _published,
    Failed: _failed,
    Finished: _finished,
}
