"""Options that were changed and do nothing as the rest of the config stands are told, each with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from simpletuner.config import read

MASKS = {"id": "masks", "instance_data_dir": "masks", "conditioning_type": "mask", "dataset_type": "conditioning"}
HOOK = {"webhook_type": "raw", "callback_url": "http://localhost/hook"}


def notices(folder: Path, *partners: dict[str, Any], alpha_mask: bool = False, **options: Any) -> list[str]:
    subject = {"id": "subject", "instance_data_dir": "pictures", "alpha_mask": alpha_mask}
    if partners:
        subject["conditioning_data"] = partners[0]["id"]
    (folder / "data.json").write_text(json.dumps([subject, *partners]))
    (folder / "config.json").write_text(json.dumps({"data_backend_config": "data.json", **options}))
    return list(read(folder / "config.json", environment={}, folder=folder).notices)


@pytest.mark.parametrize(
    ("option", "value", "reason", "with_it"),
    [
        ("push_checkpoints_to_hub", True, "push_to_hub is not set", {"push_to_hub": True}),
        ("hub_branch", "other", "push_to_hub is not set", {"push_to_hub": True}),
        ("post_upload_script", "true", "push_to_hub is not set", {"push_to_hub": True}),
        ("webhook_reporting_interval", 5, "webhook_config is not set", {"webhook_config": HOOK}),
        ("flux_guidance_min", 1, "flux_guidance_mode is constant", {"flux_guidance_mode": "random-range"}),
        ("flux_guidance_max", 2, "flux_guidance_mode is constant", {"flux_guidance_mode": "random-range"}),
        ("flow_schedule_shift", 2, None, {"flow_use_uniform_schedule": True}),
        (
            "validation_guidance_skip_scale",
            3,
            "it acts with validation_guidance_skip_layers",
            {"validation_guidance_skip_layers": "1"},
        ),
        (
            "validation_image_quality",
            50,
            "validation_image_format is png, which loses nothing",
            {"validation_image_format": "webp"},
        ),
        (
            "validation_lycoris_strength",
            0.5,
            "lora_type is standard",
            {"lora_type": "lycoris", "lycoris_config": {"algo": "lokr", "linear_dim": 4, "linear_alpha": 4}},
        ),
        ("validation_preview_steps", 2, "it acts with validation_preview", {"validation_preview": True}),
        (
            "validation_adapter_strength",
            0.5,
            "it acts with validation_adapter_path",
            {"validation_adapter_path": "a/b"},
        ),
        (
            "pretrained_evaluation_model_name_or_path",
            "you/clip",
            "it acts with evaluation_type clip",
            {"evaluation_type": "clip"},
        ),
    ],
)
def test_what_does_nothing_is_told_and_what_acts_is_not(
    tmp_path: Path, option: str, value: object, reason: str | None, with_it: dict[str, Any]
) -> None:
    told = [f"{option} has no effect: {reason}"] if reason else []
    assert [text for text in notices(tmp_path, **{option: value}) if text.startswith(option)] == told
    assert not any(text.startswith(option) for text in notices(tmp_path, **{option: value}, **with_it))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"flow_custom_timesteps": "1,0.5", "flow_schedule_shift": 2}, ["flow_schedule_shift"]),
        ({"flux_fast_schedule": True, "flow_schedule_auto_shift": True}, ["flow_schedule_auto_shift"]),
        ({"flux_guidance_mode": "random-range", "flux_guidance_value": 3.5}, ["flux_guidance_value"]),
        ({"validation_disable": True, "validation_image_quality": 50}, []),
    ],
)
def test_options_that_another_one_overrules_are_told(tmp_path: Path, options: dict[str, Any], told: list[str]) -> None:
    assert [text.partition(" has no effect: ")[0] for text in notices(tmp_path, **options)] == told


def test_a_measurement_that_would_come_after_the_end_is_told(tmp_path: Path) -> None:
    held_out = {"id": "subject", "instance_data_dir": "held", "dataset_type": "eval"}

    def told(**options: Any) -> list[str]:
        (tmp_path / "data.json").write_text(json.dumps([{"id": "a", "instance_data_dir": "a"}, held_out]))
        (tmp_path / "config.json").write_text(json.dumps({"data_backend_config": "data.json", **options}))
        return list(read(tmp_path / "config.json", environment={}, folder=tmp_path).notices)

    said = "eval_steps_interval has no effect: the run ends at step 5"
    found = {steps: said in told(eval_steps_interval=6, max_train_steps=steps) for steps in (5, 6, None)}
    assert found == {5: True, 6: False, None: False}
    assert told(eval_epoch_interval=2, num_train_epochs=1.5) == [
        "eval_epoch_interval has no effect: the run ends after epoch 1.5"
    ]
    assert told(eval_epoch_interval=1.5, num_train_epochs=1.5) == []


@pytest.mark.parametrize("content", ["{}", "[]"])
def test_a_file_of_prompts_without_any_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "prompts.json").write_text(content)
    assert notices(tmp_path, user_prompt_library="prompts.json") == [
        "user_prompt_library has no effect: there is no prompt in it"
    ]


def test_a_masked_loss_needs_masks(tmp_path: Path) -> None:
    told = "masked_loss_by_area has no effect: there is no conditioning data set of masks or segmentations"
    assert notices(tmp_path, masked_loss_by_area=True) == [told]
    assert notices(tmp_path, MASKS, masked_loss_by_area=True) == []
    assert notices(tmp_path, masked_loss_by_area=True, alpha_mask=True) == []
    (said,) = notices(tmp_path, MASKS, masked_loss_probability=0.5)
    assert said == "masked_loss_probability has no effect: there is no conditioning data set of segmentations"
    assert notices(tmp_path, {**MASKS, "conditioning_type": "segmentation"}, masked_loss_probability=0.5) == []


def test_a_share_that_stays_at_zero_is_told_by_the_option_that_says_so(tmp_path: Path) -> None:
    given = {"scheduled_sampling_max_step_offset": 4}
    said = "scheduled_sampling_max_step_offset has no effect: scheduled_sampling_{} is 0"
    assert said.format("probability") in notices(tmp_path, **given)
    assert said.format("prob_start") in notices(tmp_path, **given, scheduled_sampling_prob_start=0.0)
