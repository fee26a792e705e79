"""Traps that SimpleTuner's users know, row by row (sections 1.6, 2.12, 2.13 and 15 of the reference)."""

import json
from pathlib import Path

import pytest

from simpletuner.config import Reading, load, read
from simpletuner.errors import ConfigError
from simpletuner.selection import Selection

ROUTES = [{"selection_ratio": 0.5, "start_layer_idx": 2, "end_layer_idx": -2}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with images and a data file."""
    (tmp_path / "config").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "config" / "data.json").write_text(
        json.dumps([{"id": "subject", "instance_data_dir": str(tmp_path / "images")}])
    )
    return tmp_path


def write(folder: Path, options: dict[str, object]) -> Path:
    path = folder / "config" / "config.json"
    path.write_text(json.dumps({"data_backend_config": "config/data.json", **options}))
    return path


def reading(folder: Path, options: dict[str, object]) -> Reading:
    return read(write(folder, options), environment={}, folder=folder)


def problems(folder: Path, options: dict[str, object]) -> list[str]:
    write(folder, options)
    with pytest.raises(ConfigError) as caught:
        load(Selection(), environment={}, folder=folder)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("options", "section", "option", "value"),
    [
        ({"--lora_rank": 16}, "adapter", "lora_rank", 16),
        ({"lora-rank": 8}, "adapter", "lora_rank", 8),
        ({"lora_rank": 8.0}, "adapter", "lora_rank", 8),
        ({"lora_rank": " 8 "}, "adapter", "lora_rank", 8),
        ({"lora_rank": None}, "adapter", "lora_rank", 16),
        ({"gradient_checkpointing": "false"}, "memory", "gradient_checkpointing", False),
        ({"gradient_checkpointing": False}, "memory", "gradient_checkpointing", False),
        ({"vae_enable_tiling": "true"}, "memory", "vae_enable_tiling", True),
        ({"tracker_run_name": "  first run "}, "tracking", "tracker_run_name", "first run"),
        ({"optimizer_config": {"eps": 1e-8}}, "optimization", "optimizer_config", {"eps": 1e-8}),
        ({"peft_lora_target_modules": ["to_q", "to_k"]}, "adapter", "peft_lora_target_modules", ("to_q", "to_k")),
        ({"lora_type": "lycoris", "lycoris_config": {"algo": "lokr"}}, "adapter", "lycoris_config", {"algo": "lokr"}),
        ({"num_train_epochs": 0.5}, "duration", "num_train_epochs", 0.5),
        ({"model_flavour": "schnell"}, "model", "model_flavour", "schnell"),
        ({"lora_init_type": "loftq"}, "adapter", "lora_init_type", "loftq"),
        ({"text_encoder_lr": 1e-5}, "adapter", "text_encoder_lr", (1e-5,)),
        ({"snr_gamma": 5.0}, "objective", "snr_gamma", 5.0),
        ({"resolution": 1.0, "resolution_type": "area"}, "data_defaults", "resolution", 1.0),
        ({"minimum_image_size": 0.5, "resolution": 1, "resolution_type": "area"}, "data_defaults", "resolution", 1.0),
        ({"disable_multiline_split": True}, "data_defaults", "disable_multiline_split", True),
        ({"max_train_steps": 100}, "duration", "num_train_epochs", None),
    ],
)
def test_a_value_arrives_as_it_was_meant(
    folder: Path, options: dict[str, object], section: str, option: str, value: object
) -> None:
    found = reading(folder, options)
    assert found.problems == ()
    assert found.config.__dict__[section].__dict__[option] == value


@pytest.mark.parametrize("value", [{"routes": ROUTES}, json.dumps({"routes": ROUTES}), str({"routes": ROUTES})])
def test_routes_may_be_an_object_json_text_or_a_python_literal(folder: Path, value: object) -> None:
    tread = reading(folder, {"tread_config": value}).config.routing.tread_config
    assert tread is not None
    assert [route.model_dump() for route in tread.routes] == ROUTES


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distillation_method": "lcm"}, "distillation_method: 'lcm' is not served yet"),
        ({"quantization_config": {"load_in_4bit": True}}, "load_in_4bit"),
        ({"publishing_config": {"provider": "s3"}}, "publishing_config: {'provider': 's3'} is not served yet"),
        ({"webhook_config": [{"webhook_type": "raw"}]}, "webhook_config.0.callback_url: is required for webhook_type"),
        ({"validation_resol": 512}, "there is no option of this name; did you mean 'validation_resolution'?"),
        ({"optimizer": "dadaptionadam"}, "no optimizer is called 'dadaptionadam'; did you mean 'dadapt-adam'?"),
        ({"optimizer": "adamw9bit"}, "no optimizer is called 'adamw9bit'; did you mean"),
        ({"base_model_precision": "bf16"}, "base_model_precision: 'bf16' is not served yet; use no_change"),
        ({"base_model_precision": "int7-sdnq"}, "no precision is called 'int7-sdnq'"),
        (
            {"lora_init_type": "loftq", "base_model_precision": "int8-quanto"},
            "lora_init_type: loftq needs the weights as they are, and base_model_precision is int8-quanto",
        ),
        ({"lycoris_config": {"algo": "lokr"}}, "lycoris_config: is only read with lora_type lycoris"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: must be at least 1, got 0"),
        ({"gradient_checkpointing_interval": 0}, "gradient_checkpointing_interval: must be at least 1, got 0"),
        ({"validation_guidance_skip_layers": "1;2"}, "validation_guidance_skip_layers"),
        ({"model_flavour": "redux"}, "model_flavour: no model flavour is called 'redux'; the choices are krea, dev"),
        ({"model_family": "chroma", "model_flavour": "schnell"}, "'schnell' is not of the family chroma"),
        ({"num_train_epochs": 0}, "set one of them to more than 0"),
        ({"tokenizer_max_length": 1024}, "tokenizer_max_length: must be at most 512, got 1024"),
    ],
)
def test_what_was_dropped_cut_down_or_unexplained_is_refused_with_a_reason(
    folder: Path, options: dict[str, object], said: str
) -> None:
    found = problems(folder, options)
    assert len(found) == 1
    assert said in found[0]


def test_an_option_on_the_command_line_acts_whatever_kind_the_file_is(folder: Path) -> None:
    write(folder, {"lora_rank": 16})
    assert load(Selection(), ["lora_rank=4"], environment={}, folder=folder).config.adapter.lora_rank == 4
    (folder / "config" / "config.json").unlink()
    (folder / "config" / "config.toml").write_text('data_backend_config = "config/data.json"\nlora_rank = 16\n')
    assert load(Selection(), ["--lora_rank=4"], environment={}, folder=folder).config.adapter.lora_rank == 4


def test_a_global_minimum_size_holds_for_data_sets_in_their_own_unit(folder: Path) -> None:
    found = problems(folder, {"minimum_image_size": 0.5})
    place, _, said = found[0].partition(": ")
    assert place == "data set 'subject' › minimum_image_size"
    assert said == "0.5 would be an edge in pixels; for megapixels set resolution_type to area"


def test_defaults_are_of_use_for_flux(folder: Path) -> None:
    found = reading(folder, {}).config
    assert found.model.model_type == "lora"
    assert found.optimization.learning_rate == 1e-4
    assert found.optimization.grad_clip_method == "norm"
    assert found.adapter.lora_dropout == 0
    assert found.validation.sizes() == ((1024, 1024),)
    assert found.validation.validation_guidance == 3
