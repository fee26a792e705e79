"""Going on from a checkpoint with a config that may have changed since: what is allowed, told, and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletuner import plans
from simpletuner.config import SECTIONS, RunConfig
from simpletuner.errors import CheckpointError
from simpletuner.schema import IfChanged, if_changed
from simpletuner.training import checkpoint
from simpletuner.training.saving import RESOLVED_CONFIG


@dataclass(frozen=True)
class Changed:
    """An option that is another one now than when a checkpoint was made."""

    name: str
    then: object
    now: object
    follows: IfChanged

    def __str__(self) -> str:
        return f"{self.name} was {self.then!r}, is {self.now!r}"


def notices(config: RunConfig, resume_from: Path | None) -> Iterator[str]:
    """What to say before a run goes on with other options than it began with.

    Raises:
        CheckpointError: It cannot go on with them.
    """
    if resume_from is None:
        return
    found = list(changes(config, resume_from))
    if refused := [one for one in found if one.follows is IfChanged.REFUSED]:
        told = "".join(f"\n  {one}" for one in refused)
        raise CheckpointError(
            f"'{resume_from}' was made with other options, and a run cannot go on from it with these:{told}\n"
            f"Set them back, or start anew with resume_from_checkpoint set to none and another output_dir."
        )
    yield from (f"the checkpoint was made with other options: {one}" for one in found if one.follows is IfChanged.TOLD)


def changes(config: RunConfig, resume_from: Path) -> Iterator[Changed]:
    """Every option that is another one now."""
    then = json.loads(checkpoint.read(resume_from, RESOLVED_CONFIG))
    now = json.loads(config.dump())
    seeds = checkpoint.seed_of(resume_from), plans.seed_of_run(config, resume_from)
    if seeds[0] != seeds[1]:  # the config may leave it open, so what counts is what it became
        yield Changed("seed", *seeds, IfChanged.REFUSED)
    for section in SECTIONS.values():
        for key in section.model_fields:
            # An option that did not exist when the checkpoint was made did what it does by default.
            before = then.get(key, _default(section, key))
            if key in now and before != now[key]:  # what holds secrets is not kept
                yield Changed(key, before, now[key], if_changed(section, key))
    yield from _data(then.get("data_backends", []), now["data_backends"])


def _default(section: Any, key: str) -> object:
    value = section.model_fields[key].get_default(call_default_factory=True)
    return json.loads(json.dumps(value, default=str))


def _data(then: list[Mapping[str, Any]], now: list[Mapping[str, Any]]) -> Iterator[Changed]:
    """What is different in the data file."""
    before, after = ({str(entry["id"]): entry for entry in entries} for entries in (then, now))
    for id in sorted(before.keys() | after.keys()):
        old, new = before.get(id), after.get(id)
        if old is None or new is None:
            yield Changed(f"data set '{id}'", _there(old), _there(new), IfChanged.TOLD)
            continue
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                yield Changed(f"data set '{id}': {key}", old.get(key), new.get(key), IfChanged.TOLD)


def _there(entry: object) -> str:
    return "not there" if entry is None else "there"
