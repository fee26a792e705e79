"""Options of the objective that contradict each other are refused, and those that do nothing are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from simpletuner.config import Reading, read
from simpletuner.errors import ConfigError


def reading(folder: Path, entry: dict[str, Any] | None = None, **options: Any) -> Reading:
    data = {"id": "subject", "instance_data_dir": "pictures", **(entry or {})}
    (folder / "data.json").write_text(json.dumps([data]))
    (folder / "config.json").write_text(json.dumps({"data_backend_config": "data.json", **options}))
    return read(folder / "config.json", environment={}, folder=folder)


def told(folder: Path, entry: dict[str, Any] | None = None, **options: Any) -> list[str]:
    return [str(problem) for problem in reading(folder, entry, **options).problems]


MODE = (
    "flow_prediction_mode: 'sigma_scaled' compares things that are not the same: a FLUX that draws perfectly would "
    "have a large loss, and unlearns it. Use raw; to repeat a run of sd-scripts all the same, set "
    "flow_reproduce_sd_scripts to true"
)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"flow_prediction_mode": "sigma_scaled"}, MODE),
        (
            {"flow_timestep_sampling": "shift", "flow_use_beta_schedule": True, "flux_fast_schedule": True},
            "flow_timestep_sampling: draws noise levels, and so does flow_use_beta_schedule, flux_fast_schedule; keep "
            "one",
        ),
        (
            {"flow_cubic_schedule_weights": [1, 2], "flow_use_uniform_schedule": True},
            "flow_cubic_schedule_weights: cannot be together with flow_use_uniform_schedule; keep one",
        ),
        (
            {"mixflow_enabled": True, "flow_custom_timesteps": "0.5"},
            "mixflow_enabled: draws noise levels by itself; leave out flow_custom_timesteps",
        ),
        (
            {"flow_weighting_scheme": "mode"},
            "flow_weighting_scheme: 'mode' needs flow_timestep_sampling sigma; set it, or use uniform",
        ),
        (
            {"flow_weighting_scheme": "cosmap"},
            "flow_weighting_scheme: 'cosmap' acts only with flow_prediction_mode sigma_scaled; leave it out",
        ),
        (
            {"flux_fast_schedule": True, "max_timestep": 900},
            "min_timestep, max_timestep: would move the levels that flux_fast_schedule names; leave it out",
        ),
        (
            {"min_timestep": 0.1, "max_timestep": 0.9},
            "max_timestep: counts to 1000, and 0.9 is hardly any noise; try 900",
        ),
        (
            {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 1, "mixflow_enabled": True},
            "scheduled_sampling_max_step_offset: and mixflow_enabled both change where samples start; keep one",
        ),
        (
            {
                "scheduled_sampling_max_step_offset": 2,
                "scheduled_sampling_probability": 1,
                "flow_prediction_mode": "additive",
                "flow_reproduce_sd_scripts": True,
            },
            "scheduled_sampling_max_step_offset: lets the model draw, which needs flow_prediction_mode raw; set it, or "
            "leave this out",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    assert told(tmp_path, **options) == [problem]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flow_custom_timesteps": [0.5, 1200]}, "must be noise levels from 0 to 1, or timesteps from 0 to 1000"),
        ({"flow_custom_timesteps": []}, "must be noise levels"),
        ({"flow_custom_timesteps": [0.5, 500]}, "has noise levels below 1 and timesteps above 1 in it; write all in"),
        ({"flow_cubic_schedule_weights": [1]}, "must be two or more weights that are not negative, and not all 0"),
        ({"flow_cubic_schedule_weights": "1,-1"}, "must be two or more weights"),
        ({"min_timestep": 500, "max_timestep": 500}, "500 is not below 500; leave room between them"),
        ({"loss_type": "l3"}, "no loss is called 'l3'; the choices are l2, l1, huber, smooth_l1"),
        ({"huber_schedule": "cosine"}, "the choices are snr, exponential, constant"),
        ({"flow_timestep_sampling": "logit"}, "the choices are sigma, uniform, sigmoid, shift, flux_shift"),
        ({"scheduled_sampling_sampler": "heun"}, "the choices are unipc, euler, dpm"),
        ({"huber_c": 0}, "must be above 0, got 0"),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        reading(tmp_path, **options)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("options", "notice"),
    [
        ({"huber_c": 0.2}, "huber_c has no effect: it acts with loss_type huber and smooth_l1"),
        ({"loss_type": "huber", "huber_c": 0.2}, None),
        (
            {"flow_beta_schedule_alpha": 3},
            "flow_beta_schedule_alpha has no effect: it acts with flow_use_beta_schedule",
        ),
        ({"flow_use_beta_schedule": True, "flow_beta_schedule_alpha": 3}, None),
        (
            {"flow_use_uniform_schedule": True, "flow_use_beta_schedule": True},
            "flow_use_beta_schedule has no effect: flow_use_uniform_schedule decides which noise levels are drawn",
        ),
        (
            {"flow_timestep_sampling": "flux_shift", "flow_schedule_shift": 2},
            "flow_schedule_shift has no effect: flow_timestep_sampling or flow_schedule_auto_shift says another one",
        ),
        (
            {"flow_schedule_auto_shift": True, "flow_schedule_shift": 2},
            "flow_schedule_shift has no effect: flow_timestep_sampling or flow_schedule_auto_shift says another one",
        ),
        ({"flow_schedule_auto_shift": True, "flow_schedule_shift": 0}, None),
        ({"flow_timestep_sampling": "sigma", "flow_schedule_shift": 2}, None),
        (
            {"flow_use_uniform_schedule": True, "flow_sigmoid_scale": 2},
            "flow_sigmoid_scale has no effect: noise levels are not drawn around the middle",
        ),
        (
            {"scheduled_sampling_probability": 0.5},
            "scheduled_sampling_probability has no effect: it acts with scheduled_sampling_max_step_offset",
        ),
        (
            {"scheduled_sampling_max_step_offset": 2},
            "scheduled_sampling_max_step_offset has no effect: scheduled_sampling_probability is 0",
        ),
        ({"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_ramp_steps": 10}, None),
        (
            {
                "scheduled_sampling_max_step_offset": 2,
                "scheduled_sampling_probability": 0.5,
                "scheduled_sampling_prob_start": 0.1,
            },
            "scheduled_sampling_probability has no effect: scheduled_sampling_prob_start says the share at the",
        ),
        (
            {
                "scheduled_sampling_max_step_offset": 2,
                "scheduled_sampling_probability": 0.5,
                "scheduled_sampling_sampler": "euler",
                "scheduled_sampling_order": 1,
            },
            "scheduled_sampling_order has no effect: scheduled_sampling_sampler is euler, which looks back on none",
        ),
        ({"noise_offset": 0.05}, "noise_offset has no effect: it acts with offset_noise"),
        ({"flow_reproduce_sd_scripts": True}, "flow_reproduce_sd_scripts has no effect: it allows other values of "),
        (
            {"flow_reproduce_sd_scripts": True, "flow_prediction_mode": "sigma_scaled"},
            "flow_prediction_mode sigma_scaled repeats what sd-scripts does by default, and FLUX unlearns its own way",
        ),
    ],
)
def test_what_does_nothing_or_harm_is_told(tmp_path: Path, options: dict[str, Any], notice: str | None) -> None:
    found = reading(tmp_path, **options)
    assert found.problems == ()
    assert [text.startswith(notice or "?") for text in found.notices] == ([True] if notice else [])


def test_names_of_sd_scripts_are_understood(tmp_path: Path) -> None:
    names = {"timestep_sampling": "sigma", "discrete_flow_shift": 3.1582, "weighting_scheme": "logit_normal"}
    more = {"logit_mean": 0.5, "logit_std": 2, "ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True}
    found = reading(tmp_path, **names, **more)
    objective = found.config.objective
    assert (objective.flow_timestep_sampling, objective.flow_schedule_shift) == ("sigma", 3.1582)
    assert (objective.flow_weighting_scheme, objective.flow_logit_mean) == ("logit_normal", 0.5)
    assert (objective.input_perturbation, objective.input_perturbation_random) == (0.1, True)
    assert "timestep_sampling is called flow_timestep_sampling now" in found.notices and found.problems == ()


def test_an_offset_of_a_data_set_needs_levels_that_it_can_move(tmp_path: Path) -> None:
    entry = {"timestep_sampling_offset": 0.5}
    where = "data set 'subject' › timestep_sampling_offset: "
    assert told(tmp_path, entry) == told(tmp_path, entry, flow_timestep_sampling="flux_shift") == []
    assert told(tmp_path, entry, flow_use_uniform_schedule=True) == [
        f"{where}moves noise levels only where they are drawn around the middle, and flow_use_uniform_schedule draws "
        "others; leave one out"
    ]
    assert f"{where}is for images to train on, and this is eval; leave it out" in told(
        tmp_path, {**entry, "dataset_type": "eval"}
    )


def test_a_full_training_may_learn_prior_data_but_not_what_its_base_said(tmp_path: Path) -> None:
    entry = {"is_regularisation_data": True}
    assert any("is_regularisation_data" in one for one in told(tmp_path, entry, model_type="full"))
    prior = {**entry, "regularisation_mode": "prior"}
    assert not any("is_regularisation_data" in one for one in told(tmp_path, prior, model_type="full"))
