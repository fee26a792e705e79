"""Runs that are killed again and again lose no checkpoint, and end as one that was never disturbed."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import house
import pytest
from killing_runs import Killing, kept

SHORT = bool(os.environ.get("CI"))
EVERYTHING = {
    "max_train_steps": 8 if SHORT else 24,
    "gradient_accumulation_steps": 2,
    "caption_dropout_probability": 0.3,
    "lr_scheduler": "cosine",
    "checkpoint_step_interval": 2,
    "checkpoints_total_limit": 2,
    "checkpointing_rolling_steps": 1,
    "use_ema": True,
    "ema_decay": 0.9,
    "validation_disable": False,
    "validation_prompt": "a red circle",
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 1,
    "validation_step_interval": 5,
}
KINDS: dict[str, dict[str, Any]] = {
    "adapter": {"lora_dropout": 0.1, "optimizer": "adamw_schedulefree"},
    "whole model": {"model_type": "full", "lora_rank": None, "flux_lora_target": None, "learning_rate": 1e-4},
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["adapter"] if SHORT else KINDS)
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(
    tmp_path: Path, model: Path, kind: str
) -> None:
    data = [
        house.data_set("subject", house.draw_pictures(tmp_path / "subject", 6), repeats=1),
        house.data_set("wide", house.draw_pictures(tmp_path / "wide", 3, size=(128, 64), seed=1)),
    ]
    path, output = house.write_run(tmp_path, data, **{**EVERYTHING, **KINDS[kind]}), tmp_path / "output"
    house.run(path, model)
    calm = kept(output.rename(tmp_path / "calm"))
    killing = Killing(path, model, output, random.Random(5), calm)
    killing.go(8 if SHORT else 100)
    print(kind, dict(killing.met))
    assert killing.met["in training"] > 3
