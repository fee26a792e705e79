"""Keys of SimpleTuner's configs: every one is known, and older ones are understood with a notice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from simpletuner.config import OWNER, Reading, read
from simpletuner.errors import ConfigError
from simpletuner.legacy import COUNTERPARTS, ENVIRONMENT_NAMES, INVERTED, OBSOLETE, OF_DATA_SETS, RENAMED, modernise

NAMES = (Path(__file__).parent / "appendix" / "option_names.txt").read_text().split()


def reading(folder: Path, **options: object) -> Reading:
    (folder / "data.json").write_text(json.dumps([{"id": "subject", "instance_data_dir": "pictures"}]))
    path = folder / "config.json"
    path.write_text(json.dumps({"data_backend_config": "data.json", **options}))
    return read(path, environment={}, folder=folder)


def unknown(folder: Path, names: list[str]) -> list[str]:
    """The names that are not known, whatever is said about their values."""
    try:
        reading(folder, **{name: ["no value of any option"] for name in names})
    except ConfigError as error:
        return [problem.where for problem in error.problems if "there is no option of this name" in problem.what]
    return []


def test_every_option_of_the_reference_is_known_by_name(tmp_path: Path) -> None:
    assert unknown(tmp_path, NAMES) == []
    assert unknown(tmp_path, ["not_an_option"]) == ["not_an_option"]


OF_SD_SCRIPTS_AND_PEFT = {
    "adaptive_noise_scale", "alpha_pattern", "blocks_to_swap", "double_blocks_to_swap", "flow_logit_mean",
    "flow_logit_std", "flow_mode_scale", "flow_prediction_mode", "flow_timestep_sampling", "flow_weighting_scheme",
    "fused_backward_pass", "huber_scale", "img_attn_dim", "img_mlp_dim", "img_mod_dim", "in_dims",
    "input_perturbation_random", "loraplus_lr_ratio", "lr_decay_steps", "max_timestep", "min_timestep",
    "module_dropout", "multires_noise_discount", "multires_noise_iterations", "noise_offset_random_strength",
    "rank_dropout", "rank_pattern", "single_blocks_to_swap", "single_dim", "single_mod_dim", "train_blocks",
    "train_double_block_indices", "train_single_block_indices", "train_t5xxl", "txt_attn_dim", "txt_mlp_dim",
    "txt_mod_dim", "use_rslora",
}  # fmt: skip
OURS = {
    "base_adapters", "base_adapters_strength", "checkpoint_minutes_interval", "checkpoints_hours_limit",
    "flow_reproduce_sd_scripts", "hub_branch", "lora_dropout_position", "lora_layers", "lora_max_norm",
    "loss_spike_factor", "lr_step_rules", "lr_timescale", "masked_loss_by_area", "non_finite_action",
    "private_metadata", "text_encoder_path", "vae_cache_mode", "validation_preview_model",
}  # fmt: skip


def test_every_option_is_one_of_the_reference_or_of_other_programs_but_for_a_few() -> None:
    assert set(OWNER) - set(NAMES) == OF_SD_SCRIPTS_AND_PEFT | OURS


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OWNER and not name.startswith("_")])
def test_a_name_that_is_no_option_any_more_gives_a_notice(name: str) -> None:
    _, notices = modernise({name: "1"})
    assert len(notices) == 1
    assert notices[0].startswith(f"{name} ")


@pytest.mark.parametrize(
    ("key", "value", "modern", "notice"),
    [
        ("save_total_limit", 3, {"checkpoints_total_limit": 3},
         "save_total_limit is called checkpoints_total_limit now"),
        ("validation_steps", 50, {"validation_step_interval": 50},
         "validation_steps is called validation_step_interval now"),
        ("checkpointing_steps", 5, {"checkpoint_step_interval": 5},
         "checkpointing_steps is called checkpoint_step_interval now"),
        ("vae_cache_preprocess", "false", {"vae_cache_ondemand": True},
         "vae_cache_preprocess is the opposite of vae_cache_ondemand now, which is set to true"),
        ("ignore_final_epochs", True, {"strict_epoch_limit": False},
         "ignore_final_epochs is the opposite of strict_epoch_limit now, which is set to false"),
        ("aspect_ratio_bucketing", True, {}, "aspect_ratio_bucketing has no meaning any more and is ignored"),
        ("repeats", 4, {}, "repeats is ignored here, for each data set has its own: set it in the data file"),
        ("crepa_lambda", 0.5, {}, "crepa_lambda has no effect on FLUX and is ignored"),
        ("pretrained_vae_model_name_or_path", "madebyollin/sdxl-vae-fp16-fix", {},
         "pretrained_vae_model_name_or_path madebyollin/sdxl-vae-fp16-fix belongs to SDXL and is ignored"),
        ("pretrained_vae_model_name_or_path", "my/vae", {"pretrained_vae_model_name_or_path": "my/vae"}, None),
        ("crepa_enabled", True, {"crepa_enabled": True}, None),
        ("lora_rank", 8, {"lora_rank": 8}, None),
    ],
)  # fmt: skip
def test_an_older_key_becomes_todays(key: str, value: object, modern: dict[str, object], notice: str | None) -> None:
    assert modernise({key: value}) == (modern, [notice] if notice else [])


def test_todays_key_wins_over_the_older_one_in_the_same_file(tmp_path: Path) -> None:
    both = reading(tmp_path, save_total_limit=3, checkpoints_total_limit=7)
    assert both.config.checkpoints.checkpoints_total_limit == 7


def test_an_older_key_that_loses_against_todays_is_told() -> None:
    modern, notices = modernise({"discrete_flow_shift": 3, "flow_schedule_shift": 2})
    assert modern == {"flow_schedule_shift": 2}
    assert notices == ["discrete_flow_shift has no effect: flow_schedule_shift is given too"]


def test_an_older_key_on_the_command_line_wins_over_todays_in_the_file(tmp_path: Path) -> None:
    reading(tmp_path, checkpoint_step_interval=500)
    path = tmp_path / "config.json"
    newer = read(path, ["checkpointing_steps=50"], environment={}, folder=tmp_path).config
    assert newer.checkpoints.checkpoint_step_interval == 50


def test_an_older_key_that_is_not_set_changes_nothing(tmp_path: Path) -> None:
    config = reading(tmp_path, vae_cache_preprocess=None, save_total_limit=None).config
    assert config.data_defaults.vae_cache_ondemand is False
    assert config.checkpoints.checkpoints_total_limit == 5


def test_every_older_key_leads_to_an_option() -> None:
    tables = (RENAMED, INVERTED, ENVIRONMENT_NAMES)
    assert {option for table in tables for option in table.values()} <= set(OWNER)
    assert not (set(RENAMED) | set(INVERTED) | OBSOLETE | OF_DATA_SETS) & set(OWNER)


def test_the_switch_for_adam_in_8_bits_chooses_that_optimizer(tmp_path: Path) -> None:
    read = reading(tmp_path, use_8bit_adam=True)
    assert read.config.optimization.optimizer == "bnb-adamw8bit"
    assert "use_8bit_adam is optimizer bnb-adamw8bit now" in read.notices
    assert reading(tmp_path, use_8bit_adam="false").config.optimization.optimizer == "adamw_bf16"
    assert reading(tmp_path, use_8bit_adam=True, optimizer="adamw").config.optimization.optimizer == "adamw"


def test_an_option_of_sd_scripts_is_refused_with_its_name_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        reading(tmp_path, network_dim=16, unet_lr=1e-4)
    told = str(caught.value)
    assert "network_dim: there is no option of this name; what sd-scripts calls so is lora_rank" in told
    assert "unet_lr: there is no option of this name; what sd-scripts calls so is learning_rate" in told


def test_every_counterpart_of_an_option_of_sd_scripts_is_an_option() -> None:
    assert {re.split(r"[ ,;]", named)[0] for named in COUNTERPARTS.values()} <= OWNER.keys()
    assert not COUNTERPARTS.keys() & (OWNER.keys() | RENAMED.keys())


def test_a_base_in_bf16_is_called_otherwise(tmp_path: Path) -> None:
    """SimpleTuner's quickstart for FLUX names it so."""
    problems = [problem.what for problem in reading(tmp_path, base_model_precision="bf16").problems]
    assert any("use no_change" in what for what in problems)
