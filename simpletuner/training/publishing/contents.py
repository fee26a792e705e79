"""Which files of a run others get: weights, card and pictures, and nothing that only this run can use."""

from __future__ import annotations

import re
from pathlib import Path

from simpletuner.models.adapters.adapter import EXACT, FILE_NAME
from simpletuner.training import checkpoint
from simpletuner.training.saving import OPTIMIZER, RESOLVED_CONFIG

CARD = "README.md"
SHEET = "before_and_after.png"
PICTURES = "validation_images"
WEIGHTS = (FILE_NAME, "transformer", "controlnet")
"""A file, or a folder of files; a run makes one of them."""
EMA = "ema"
_OWN = frozenset({EXACT, OPTIMIZER, RESOLVED_CONFIG, checkpoint.STATE, checkpoint.MANIFEST, "ema.safetensors"})


def of_result(folder: Path, step: int) -> dict[str, Path]:
    """The files of a finished run in its output folder, by their path in the repository."""
    pictures = sorted((folder / PICTURES).glob(f"step_{step}_*"))
    found = [*_below(folder, *WEIGHTS, EMA, CARD, SHEET), *pictures]
    return {path.relative_to(folder).as_posix(): path for path in found}


def of_checkpoint(path: Path) -> dict[str, Path]:
    """The weights of a checkpoint in a folder of its name, and as the newest ones at the top."""
    found = {one.relative_to(path).as_posix(): one for one in _below(path) if one.name not in _OWN}
    return {**{f"{path.name}/{name}": one for name, one in found.items()}, **found}


def shown_step(folder: Path) -> int:
    """The step whose pictures the card in an output folder shows; 0 without any."""
    card = folder / CARD
    found = re.search(rf"{PICTURES}/step_(\d+)_", card.read_text()) if card.is_file() else None
    return int(found[1]) if found else 0


def _below(folder: Path, *names: str) -> list[Path]:
    """All files in a folder, or those of these names and in folders of these names; no halves of a killed writer."""
    places = [folder / name for name in names] or [folder]
    found = (one for place in places for one in (place, *place.rglob("*")) if one.is_file())
    return sorted(one for one in found if not any(name.startswith(".") for name in one.relative_to(folder).parts))
