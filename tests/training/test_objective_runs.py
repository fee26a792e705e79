"""Whole runs with other objectives: they learn what their data sets say, and an interruption changes nothing."""

import shutil
from pathlib import Path

import house
import pytest
from safetensors.torch import load_file
from torch import equal

from simpletuner.progress import Recorded, StepDone

EVERYTHING = {
    "checkpoint_step_interval": 3,
    "gradient_accumulation_steps": 2,
    "caption_dropout_probability": 0.3,
    "lora_dropout": 0.1,
    "loss_type": "smooth_l1",
    "input_perturbation": 0.1,
    "input_perturbation_steps": 5,
    "offset_noise": True,
    "multires_noise_iterations": 3,
    "flux_guidance_mode": "random-range",
    "tread_config": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": -2}]},
}
ROLLOUT = {
    "scheduled_sampling_max_step_offset": 2,
    "scheduled_sampling_probability": 0.5,
    "scheduled_sampling_ramp_steps": 4,
    "scheduled_sampling_prob_end": 1.0,
    "scheduled_sampling_reflexflow": True,
}
TURNS = {"flow_custom_timesteps": "900,500,100", "flow_timesteps_mode": "round-robin"}


def losses(recorded: Recorded) -> list[float]:
    return [event.loss for event in recorded.events if isinstance(event, StepDone)]


@pytest.mark.parametrize(
    "options",
    [
        {**ROLLOUT, **TURNS, "gradient_checkpointing": True, "mixed_precision": "bf16"},
        {"mixflow_enabled": True, "max_timestep": 900},
    ],
)
def test_three_steps_and_three_more_are_six_steps(
    tmp_path: Path, model: Path, pictures: Path, options: dict[str, object]
) -> None:
    data = [house.data_set("subject", pictures, repeats=1)]
    path = house.write_run(tmp_path, data, **EVERYTHING, **options)
    whole, heard = house.run(path, model)
    other = shutil.copytree(whole.folder, tmp_path / "other")
    shutil.rmtree(other / "checkpoint-6")
    resumed, second = house.run(path, model, f"output_dir={other}")
    assert losses(second) == losses(heard)[3:] and len(losses(second)) == 3
    expected, found = load_file(whole.adapter), load_file(resumed.adapter)
    assert resumed.adapter != whole.adapter and all(equal(expected[name], found[name]) for name in expected)


def test_an_offset_of_a_data_set_moves_it_alone(tmp_path: Path, model: Path, pictures: Path) -> None:
    def run(name: str, offset: float) -> list[tuple[float, bool]]:
        data = [
            house.data_set("moved", pictures, timestep_sampling_offset=offset),
            house.data_set("plain", house.draw_pictures(tmp_path / "plain", 10, seed=3), prior_loss_weight=0, **PRIOR),
        ]
        return losses(house.run(house.write_run(tmp_path / name, data, learning_rate=1e-30), model)[1])

    plain, moved = run("a", 0.0), run("b", 3.0)
    assert 0 < plain.count(0.0) < 6
    assert [one == other for one, other in zip(plain, moved, strict=True)] == [one == 0 for one in plain]


PRIOR = {"is_regularisation_data": True, "regularisation_mode": "prior"}
