"""A run once more: its resolved config and seed written as files of their own, and what came of it compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletuner import manifest
from simpletuner.config import OWNER
from simpletuner.errors import ConfigError, Problem
from simpletuner.storage.local import LocalStore
from simpletuner.training.saving import RESOLVED_CONFIG

CONFIG = "config.json"
DATA = "multidatabackend.json"


@dataclass(frozen=True)
class Repetition:
    """A run that is to be made again."""

    before: manifest.Made
    config: Path
    """The config that makes it again."""
    output: Path
    secrets: tuple[str, ...]
    """Options whose values are secrets, which no run keeps."""

    def outcome(self) -> Iterator[str]:
        """What is different in what it was made with, and whether the result is the same."""
        now = manifest.read(self.output)
        yield from self.before.differences(now)
        if self.before.result is None:
            yield "the first run did not come to its end, so there is no result to compare with"
        elif self.before.result == now.result:
            yield "the result is the same, bit for bit"
        else:
            yield "the result is another one"

    def is_same(self) -> bool:
        """Whether the weights are those of the first run, bit for bit."""
        return self.before.result is not None and self.before.result == manifest.read(self.output).result


def repetition(run: Path, output: Path) -> Repetition:
    """Write the config files that make a run again, into the folder of its repetition.

    Raises:
        ConfigError: There is no such run, or the folder is in use.
    """
    if output.exists() and any(output.iterdir()):
        raise ConfigError(str(output), [Problem("--output", "is not empty; choose another folder")])
    before = manifest.read(run)
    if not Path(before.folder).is_dir():
        told = f"was started in '{before.folder}', where its relative paths begin, and that folder is gone; make it"
        raise ConfigError(str(run), [Problem("folder", told)])
    whole = _resolved(run)
    data = whole.pop("data_backends")
    secrets = tuple(_hidden({**whole, "data_backends": data}))
    store = LocalStore(output)
    config = {**whole, **_of_its_own(output, before.seed)}
    # What this version does not know any more did nothing, or is told when the config is read.
    known = {key: value for key, value in config.items() if value is not None and key in OWNER}
    store.write(DATA, _json(_shown(data)))
    store.write(CONFIG, _json(_shown(known)))
    return Repetition(before, output / CONFIG, output, secrets)


def _of_its_own(output: Path, seed: int) -> dict[str, object]:
    """What a repetition has of its own: it tells nobody, and touches nothing of the first run."""
    return {
        "output_dir": str(output),
        "data_backend_config": str(output / DATA),
        "seed": seed,
        "resume_from_checkpoint": "none",
        "report_to": "none",
        "push_to_hub": False,
        "push_checkpoints_to_hub": False,
        "post_checkpoint_script": None,
        "post_upload_script": None,
        "webhook_config": None,
    }


def _resolved(run: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run / RESOLVED_CONFIG).read_text())
    except (OSError, ValueError) as error:
        told = f"cannot be read ({error}); give the output folder of a run"
        raise ConfigError(str(run), [Problem(RESOLVED_CONFIG, told)]) from error
    return found


def _hidden(value: Any, place: str = "") -> Iterator[str]:
    """The places of values that were left out of a file because they are secrets."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _hidden(one, f"{place} › {key}" if place else str(key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            name = one.get("id", number) if isinstance(one, Mapping) else number
            yield from _hidden(one, f"{place} › {name}")
    elif value == _SECRET:
        yield place


def _shown(value: Any) -> Any:
    """The same without secrets that are only named."""
    if isinstance(value, Mapping):
        return {key: _shown(one) for key, one in value.items() if one != _SECRET}
    return [_shown(one) for one in value] if isinstance(value, list) else value


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()


_SECRET = "**********"
