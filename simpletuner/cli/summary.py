"""What a person reads at the end of a command: the resolved run, or where the results are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from simpletuner.config import SECTIONS, Reading
from simpletuner.data.sources.base import DataBackend

if TYPE_CHECKING:
    from simpletuner.results import Outcome

_WIDTH = 34


def describe(reading: Reading, *, with_defaults: bool = False) -> str:
    """The resolved run: what the config sets, or every option, by section; and the data sets."""
    lines = [f"{reading.path} is valid."]
    for name in SECTIONS:
        section = reading.config.__dict__[name]
        values = section.model_dump(mode="json")
        names = [key for key in type(section).model_fields if with_defaults or key in section.model_fields_set]
        if names:
            lines += ["", (type(section).__doc__ or name).strip().partition("\n")[0]]
            lines += [f"  {key:{_WIDTH}} {_shown(values[key]) if key in values else _SECRET}" for key in names]
    lines += ["", "Data sets", *_datasets(reading)]
    return "\n".join(lines)


def _datasets(reading: Reading) -> Iterator[str]:
    for entry in reading.config.data:
        facts = [entry.dataset_type, entry.type]
        if isinstance(entry, DataBackend):
            facts += ["regularisation"] if entry.is_regularisation_data else []
            facts += [f"repeats {entry.repeats}"] if entry.repeats else []
        yield f"  {entry.id:{_WIDTH}} {', '.join(facts)}"


def _shown(value: object) -> str:
    """A value as a config has it; plain text needs no quotation marks."""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


_SECRET = "not shown, because it may hold secrets"


def closing(outcome: Outcome, *, is_demo: bool) -> str:
    """Where everything is after a run, and what to do next."""
    rows = [
        ("model" if outcome.adapter.is_dir() else "adapter", outcome.adapter),
        ("before and after", outcome.sheet),
        ("validation images", outcome.folder / "validation_images" if outcome.sheet else None),
        ("checkpoints", ", ".join(path.name for path in outcome.checkpoints) or None),
        ("model card", outcome.card),
        ("progress", outcome.progress),
        ("published", outcome.published),
    ]
    lines = ["", f"Done: {outcome.steps} steps.", ""]
    lines += [f"  {name:18} {_relative(value)}" for name, value in rows if value]
    picture = _PICTURE if is_demo and outcome.sheet else ()
    return "\n".join([*lines, "", *picture, *(_demo_next() if is_demo else _NEXT)])


def _program() -> str:
    """How the person can call this program: by its name where the shell finds it, otherwise as it was called."""
    if which("simpletuner"):
        return "simpletuner"
    called = Path(sys.argv[0])
    return "python -m simpletuner" if called.name == "__main__.py" else _relative(called)


def _relative(value: object) -> str:
    if not isinstance(value, Path):
        return str(value)
    try:
        return str(value.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(value)


def _demo_next() -> tuple[str, ...]:
    program = _program()
    return (
        "To train on your own pictures:",
        "  1. put them in a folder, with a .txt file of the same name beside each, or think of a trigger word",
        f"  2. {program} configure    asks a few questions and writes config/config.json",
        "  3. ./train.sh" if Path("train.sh").is_file() else f"  3. {program} train",
    )


_PICTURE = (
    "Open the before-and-after picture: on the left what the small demo model drew, on the right the same with the",
    "adapter that you have just trained.",
    "",
)
_NEXT = (
    "Use it in diffusers: the model card shows how.",
    "Train longer by raising max_train_steps and starting again: it goes on from the last checkpoint.",
)
