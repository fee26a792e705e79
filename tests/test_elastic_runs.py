"""Whatever is trained: a run that goes on with other numbers of processes is the one that never changed them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from combinations import DATA, KINDS, OBJECTIVES
from house import write_run
from safetensors.torch import load_file
from test_processes import assert_alike, run

SHORT = bool(os.environ.get("CI"))
# Soap is no one to compare with: it takes the roundings of the first gradients for directions of their own.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "adapter": ("windows", {**OBJECTIVES["rollout"], "optimizer": "adamw_schedulefree", "lora_dropout": 0.1}),
    "encoders": ("regularised", {**KINDS["encoders"], **OBJECTIVES["noises"], "optimizer": "adamw"}),
    "whole model": ("masks", {**KINDS["full"], **OBJECTIVES["mixflow"], "optimizer": "adamw"}),
    "lokr": ("plain", {**KINDS["lokr"], **OBJECTIVES["turns"], "optimizer": "adamw"}),
}
OPTIONS = {
    "train_batch_size": 1,
    "learning_rate": 1e-3,
    "caption_dropout_probability": 0.3,
    "use_ema": True,
    "ema_decay": 0.8,
}
PARTS = ((2, 2), (1, 4), (4, 6))
"""How many processes there are, and until which step."""


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Of a file, or of a folder with one file."""
    return load_file(path if path.is_file() else next(path.glob("*.safetensors")))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("row", ["adapter"] if SHORT else ROWS)
def test_a_run_on_two_then_one_then_four_processes_is_the_unbroken_one(tmp_path: Path, model: Path, row: str) -> None:
    data, options = ROWS[row]
    entries = DATA[data](tmp_path)
    whole = write_run(tmp_path / "whole", entries, **{**OPTIONS, **options}, gradient_accumulation_steps=4)
    broken = write_run(tmp_path / "broken", entries, **{**OPTIONS, **options})
    steps, trained = run(None, whole, model)
    found = [
        first_of(count, broken, model, f"max_train_steps={until}", f"gradient_accumulation_steps={4 // count}")
        for count, until in PARTS
    ]
    results = [weights(Path(one)) for one in (found[-1][1], trained)]
    assert_alike(([one for part, _ in found for one in part], results[0]), (steps, results[1]))
    averages = [weights(one.parent / "output" / "ema" / Path(trained).name) for one in (broken, whole)]
    for name, tensor in averages[1].items():
        torch.testing.assert_close(averages[0][name], tensor, rtol=2e-4, atol=2e-4)


def first_of(count: int, path: Path, model: Path, *words: str) -> tuple[list[Any], str]:
    """What the first of several processes heard, and where the weights are."""
    first, *_ = processes.together(count, run, path, model, *words)
    assert not isinstance(first, str), first
    return first
