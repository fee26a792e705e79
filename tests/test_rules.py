"""What two options cannot be together."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from simpletuner.config import Reading, read
from simpletuner.models.options import Routing
from simpletuner.rules import routes


def reading(folder: Path, data: Sequence[dict[str, Any]], **options: Any) -> Reading:
    """A config with these data sets."""
    entries = [{"id": f"{place}", "instance_data_dir": f"pictures/{place}", **one} for place, one in enumerate(data)]
    (folder / "data.json").write_text(json.dumps(entries))
    (folder / "config.json").write_text(json.dumps({"data_backend_config": "data.json", **options}))
    return read(folder / "config.json", environment={}, folder=folder)


def told(*spans: tuple[int, int]) -> Sequence[str]:
    given = [{"selection_ratio": 0.5, "start_layer_idx": start, "end_layer_idx": end} for start, end in spans]
    return [str(problem) for problem in routes(Routing.model_validate({"tread_config": {"routes": given}}))]


@pytest.mark.parametrize("spans", [[(2, 6)], [(2, -2)], [(0, 0)], [(2, 6), (7, 9)], [(-9, -5), (-4, -1)]])
def test_routes_one_after_the_other_are_fine(spans: list[tuple[int, int]]) -> None:
    assert told(*spans) == []


def test_a_route_that_ends_before_it_starts_is_told() -> None:
    assert told((9, 3)) == ["tread_config.routes.0: ends at block 3, before it starts at 9; swap them"]


@pytest.mark.parametrize("spans", [[(2, 6), (6, 9)], [(5, 9), (2, 5)], [(2, 9), (3, 4)], [(-9, -4), (-5, -1)]])
def test_routes_through_the_same_block_are_told(spans: list[tuple[int, int]]) -> None:
    assert len(told(*spans)) == 1
    assert "tread_config.routes.1: goes through blocks of the route from" in told(*spans)[0]


@pytest.mark.parametrize(
    ("entry", "length", "notice"),
    [
        ({"start_step": 6}, {"max_train_steps": 5}, "it starts at step 6, and the run ends at 5"),
        ({"start_step": 5}, {"max_train_steps": 5}, None),
        ({"start_epoch": 4}, {"num_train_epochs": 3}, "it starts in epoch 4 of 3"),
        ({"start_epoch": 4}, {"num_train_epochs": 3.5}, None),
        ({"start_step": 6}, {}, None),
    ],
)
def test_a_data_set_that_starts_after_the_run_is_told(
    tmp_path: Path, entry: dict[str, Any], length: dict[str, Any], notice: str | None
) -> None:
    found = reading(tmp_path, [{}, entry], **length)
    assert found.problems == ()
    assert found.notices == (() if notice is None else (f"data set '1' is not used: {notice}",))


@pytest.mark.parametrize(("ends", "steps", "is_told"), [([3, 4], 5, True), ([3, 5], 5, False), ([3, 0], 5, False)])
def test_a_run_that_outlives_its_data_sets_is_told(
    tmp_path: Path, ends: Sequence[int], steps: int, is_told: bool
) -> None:
    found = reading(tmp_path, [{"end_step": end} for end in ends], max_train_steps=steps)
    what = "is 5, but no data set is left after step 4; lower it, or change an end_step in the data file"
    assert [str(problem) for problem in found.problems] == ([f"max_train_steps: {what}"] if is_told else [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "adamw_schedulefree", "use_ema": True}, "use_ema averages once more: optimizer adamw_schedule"),
        ({"optimizer": "prodigy", "train_text_encoder": True, "text_encoder_lr": 0.5}, "text_encoder_lr multiplies "),
        ({"lr_warmup_steps": 10, "max_train_steps": 5}, "the learning rate only rises: lr_warmup_steps is 10"),
    ],
)
def test_rates_that_are_not_what_they_seem_are_told(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    assert any(text.startswith(said) for text in reading(tmp_path, [{}], **options).notices)
    assert not any(text.startswith(said) for text in reading(tmp_path, [{}], optimizer="adamw").notices)
