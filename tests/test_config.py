"""How files, environment and command line become one config, and what is said about those that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from simpletuner import config, selection
from simpletuner.config import OWNER, SECTIONS, Reading, load, read
from simpletuner.errors import ConfigError
from simpletuner.selection import Selection

DATA: list[dict[str, Any]] = [{"id": "subject", "instance_data_dir": "pictures"}]


class Desk:
    """A folder with a config, its data file and a folder of pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pictures").mkdir()
        self.data(DATA)

    def data(self, entries: object) -> None:
        (self.folder / "data.json").write_text(json.dumps(entries))

    def file(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def read(
        self, options: object, *words: str, environment: Mapping[str, str] | None = None, name: str = "config.json"
    ) -> Reading:
        if isinstance(options, Mapping) and "config" not in options:
            options = {"data_backend_config": "data.json", **options}
        path = self.file(name, options)
        return read(path, words, environment=environment or {}, folder=self.folder)

    def complaints(self, options: object, *words: str, name: str = "config.json") -> list[str]:
        """What keeps a config from being read."""
        with pytest.raises(ConfigError) as caught:
            self.read(options, *words, name=name)
        return [str(problem) for problem in caught.value.problems]

    def refusals(self, options: object) -> list[str]:
        """What a readable config asks for in vain."""
        return [str(problem) for problem in self.read(options).problems]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path)


# Spelling


@pytest.mark.parametrize("key", ["lora_rank", "--lora_rank", "lora-rank", "--lora-rank"])
def test_dashes_and_hyphens_do_not_matter(desk: Desk, key: str) -> None:
    assert desk.read({key: 8}).config.adapter.lora_rank == 8


@pytest.mark.parametrize("value", [8, 8.0, "8", "8.0", " 8 "])
def test_whole_numbers_may_be_written_in_any_way(desk: Desk, value: object) -> None:
    rank = desk.read({"lora_rank": value}).config.adapter.lora_rank
    assert rank == 8
    assert isinstance(rank, int)


@pytest.mark.parametrize("value", [1e-3, "1e-3", "0.001", " 0.001 "])
def test_numbers_may_be_text(desk: Desk, value: object) -> None:
    assert desk.read({"learning_rate": value}).config.optimization.learning_rate == 0.001


@pytest.mark.parametrize("value", [False, "false", "False", " false ", "0", 0, "no", "off"])
def test_the_text_false_means_false(desk: Desk, value: object) -> None:
    assert desk.read({"gradient_checkpointing": value}).config.memory.gradient_checkpointing is False


@pytest.mark.parametrize("value", [True, "true", "TRUE", "1", 1, "yes", "on"])
def test_the_text_true_means_true(desk: Desk, value: object) -> None:
    assert desk.read({"push_to_hub": value}).config.publishing.push_to_hub is True


@pytest.mark.parametrize(
    ("key", "written", "meant"),
    [
        ("optimizer", "AdamW_BF16", "adamw_bf16"),
        ("optimizer", "adamw-bf16", "adamw_bf16"),
        ("optimizer", "AdamW8bit", "bnb-adamw8bit"),
        ("optimizer", "adamw", "adamw"),
        ("lr_scheduler", "Cosine", "cosine"),
        ("mixed_precision", " BF16 ", "bf16"),
        ("base_model_precision", "INT8_Quanto", "int8-quanto"),
        ("model_family", "Flux", "flux"),
        ("validation_noise_scheduler", "Euler", "euler"),
        ("report_to", "TensorBoard, WANDB", ["tensorboard", "wandb"]),
    ],
)
def test_capitals_and_hyphens_do_not_matter_in_what_is_chosen(
    desk: Desk, key: str, written: str, meant: object
) -> None:
    assert desk.read({key: written}).config.flat()[key] == meant


def test_what_follows_from_a_choice_does_however_it_is_spelled(desk: Desk) -> None:
    plain, other = (
        desk.read({"model_flavour": "schnell"}),
        desk.read({"model_flavour": "{env:F}"}, environment={"F": "Schnell"}),
    )
    assert plain.config == other.config != desk.read({}).config
    trained = desk.read({"model_type": "Full", "controlnet": True}).config
    assert trained.adapter.flux_lora_target == desk.read({}).config.adapter.flux_lora_target


def test_the_file_of_lycoris_is_found_however_lycoris_is_spelled(desk: Desk) -> None:
    beside = desk.file("inner/lycoris.json", {"algo": "lokr"})
    options = {"data_backend_config": "data.json", "lora_type": "LyCORIS", "lycoris_config": "lycoris.json"}
    found = desk.read({"config": options}, name="inner/config.json")
    assert found.config.adapter.lycoris_config == str(beside)


@pytest.mark.parametrize("value", [None, "", " "])
@pytest.mark.parametrize("key", ["lora_rank", "lora_alpha", "lora_type", "pretrained_model_name_or_path", "cache_dir"])
def test_null_and_empty_text_leave_an_option_at_its_default(desk: Desk, key: str, value: object) -> None:
    section = SECTIONS[OWNER[key]]
    assert desk.read({key: value}).config.__dict__[OWNER[key]].__dict__[key] == section.model_fields[key].default


def test_empty_text_is_a_value_where_text_is_expected(desk: Desk) -> None:
    read = desk.read({"validation_negative_prompt": "", "resume_from_checkpoint": ""})
    assert read.config.validation.validation_negative_prompt == ""
    assert read.config.run.resume_from_checkpoint == ""


@pytest.mark.parametrize("key", ["tracker_project_name", "tracker_run_name"])
def test_names_of_runs_are_not_empty(desk: Desk, key: str) -> None:
    assert desk.complaints({key: " "}) == [f"{key}: must not be empty, got ''"]


def test_fractions_are_accepted_where_they_mean_something(desk: Desk) -> None:
    sizes = {"resolution": 1.0, "resolution_type": "area", "minimum_image_size": "0.5"}
    read = desk.read({**sizes, "num_train_epochs": 0.5, "max_upscale_threshold": 0.2, "snr_gamma": 5.0}).config
    assert (read.data_defaults.resolution, read.data_defaults.minimum_image_size) == (1.0, 0.5)
    assert read.duration.num_train_epochs == 0.5


def test_words_may_be_a_list_or_text_with_commas(desk: Desk) -> None:
    for value in (["tensorboard", "wandb"], "tensorboard, wandb"):
        assert desk.read({"report_to": value}).config.tracking.trackers() == ["tensorboard", "wandb"]


ROUTES = {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 2, "end_layer_idx": -2}]}


@pytest.mark.parametrize("value", [ROUTES, json.dumps(ROUTES), repr(ROUTES)], ids=["object", "JSON", "Python"])
def test_an_object_is_kept_however_it_is_written(desk: Desk, value: object) -> None:
    tread = desk.read({"tread_config": value}).config.routing.tread_config
    assert tread is not None
    assert tread.model_dump(mode="json") == ROUTES


def test_objects_arrive_whole_whether_they_are_served_or_not(desk: Desk) -> None:
    given = {"unet": {"load_in_4bit": True}}
    read = desk.read({"quantization_config": given, "lora_type": "lycoris", "lycoris_config": {"algo": "lokr"}})
    assert read.config.precision.quantization_config == given
    assert read.config.adapter.lycoris_config == {"algo": "lokr"}


def test_settings_of_the_optimizer_are_an_object_or_pairs(desk: Desk) -> None:
    wanted = {"weight_decay": 0.1, "eps": 1e-8, "amsgrad": True}
    for value in (wanted, json.dumps(wanted), "weight_decay=0.1,eps=1e-8,amsgrad=True"):
        assert desk.read({"optimizer_config": value}).config.optimization.optimizer_config == wanted


def test_targets_of_the_adapter_are_a_list_or_text(desk: Desk) -> None:
    for value in (["to_q", "to_k"], '["to_q", "to_k"]', "to_q,to_k"):
        assert desk.read({"peft_lora_target_modules": value}).config.adapter.peft_lora_target_modules == (
            "to_q",
            "to_k",
        )


def test_keys_for_editors_and_web_forms_are_passed_over(desk: Desk) -> None:
    read = desk.read({"$schema": "schema.json", "_comment": "mine", "__active_tab__": "model", "lora_rank": 8})
    assert read.config.adapter.lora_rank == 8
    assert read.notices == ()


def test_a_document_of_the_web_interface_is_unwrapped(desk: Desk) -> None:
    document = {"_metadata": {"name": "x"}, "config": {"--data_backend_config": "data.json", "--lora_rank": 8}}
    assert desk.read(document).config.adapter.lora_rank == 8


# Placeholders


def test_a_variable_of_the_environment_is_filled_in(desk: Desk) -> None:
    desk.data([{"id": "subject", "instance_data_dir": "{env:PICTURES}/{model_family}/{id}"}])
    environment = {"WHO": "me", "PICTURES": "/data"}
    read = desk.read({"hub_model_id": "{env:WHO}/lora", "model_family": "flux"}, environment=environment)
    assert read.config.publishing.hub_model_id == "me/lora"
    assert read.config.data[0].__dict__["instance_data_dir"] == Path("/data/flux/subject")


def test_a_variable_that_is_not_set_is_a_problem(desk: Desk) -> None:
    desk.data([{"id": "subject", "instance_data_dir": "{env:PICTURES}"}])
    assert desk.complaints({"hub_model_id": "{env:WHO}/lora-{env:WHO}"}) == [
        "{env:WHO}: this environment variable is not set",
        "data.json › {env:PICTURES}: this environment variable is not set",
    ]


def test_what_only_follows_from_a_variable_that_is_not_set_is_not_told(desk: Desk) -> None:
    options = {"seed": "{env:SEED}", "pretrained_model_name_or_path": "{env:MODEL}", "lora_rank": 0}
    assert desk.complaints(options, "lr_end={env:END}") == [
        "{env:SEED}: this environment variable is not set",
        "{env:MODEL}: this environment variable is not set",
        "{env:END}: this environment variable is not set",
        "lora_rank: must be at least 1, got 0",
    ]


def test_the_embedded_model_can_be_named_in_any_config(desk: Desk) -> None:
    source = desk.read({"pretrained_model_name_or_path": "{env:SIMPLETUNER_DEMO_MODEL}"}).config.model
    assert source.pretrained_model_name_or_path == str(config.MODEL)


# Kinds of files


def test_toml_is_read(desk: Desk) -> None:
    text = 'data_backend_config = "data.json"\nlora_rank = 8\n[tread_config]\n[[tread_config.routes]]\n' + (
        "selection_ratio = 0.5\nstart_layer_idx = 2\nend_layer_idx = -2\n"
    )
    read = desk.read(text, name="config.toml").config
    assert read.adapter.lora_rank == 8
    assert read.routing.tread_config is not None


ENVIRONMENT_FILE = """
# a comment
export DATALOADER_CONFIG=data.json
TRAINING_SEED=7 MAX_NUM_STEPS=50   # two on a line
VALIDATION_PROMPT="a cat, 'Tom'"
USE_GRADIENT_CHECKPOINTING='false'
TRAINER_EXTRA_ARGS="--lora_rank 8"
TRAINER_EXTRA_ARGS+=" --lora-alpha=4 --push_to_hub"
CUDA_VISIBLE_DEVICES=0
"""


def test_a_file_of_shell_variables_is_read(desk: Desk) -> None:
    read = desk.read(ENVIRONMENT_FILE, name="config.env")
    assert (read.config.run.seed, read.config.duration.max_train_steps) == (7, 50)
    assert read.config.validation.validation_prompt == "a cat, 'Tom'"
    assert read.config.memory.gradient_checkpointing is False
    assert (read.config.adapter.lora_rank, read.config.adapter.lora_alpha) == (8, 4)
    assert read.config.publishing.push_to_hub is True
    assert read.notices == ("CUDA_VISIBLE_DEVICES in config.env stands for no option; export it in your shell instead",)


def test_shell_variables_beside_a_config_stand_below_it(desk: Desk) -> None:
    desk.file("config.env", "LORA_RANK=4\nTRAINING_SEED=7\n")
    read = desk.read({"lora_rank": 8}).config
    assert (read.adapter.lora_rank, read.run.seed) == (8, 7)


def test_a_mark_at_the_start_of_a_file_does_not_matter(desk: Desk) -> None:
    assert desk.read('\ufeff{"data_backend_config": "data.json"}').config.run.data_backend_config == "data.json"


# Who wins


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_defaults(desk: Desk) -> None:
    options = {"lora_rank": 2, "seed": 2, "train_batch_size": 2}
    environment = {"SIMPLETUNER_LORA_RANK": "3", "SIMPLETUNER_SEED": "3"}
    read = desk.read(options, "lora_rank=4", environment=environment)
    assert read.config.adapter.lora_rank == 4
    assert read.config.run.seed == 3
    assert read.config.duration.train_batch_size == 2
    assert read.config.duration.gradient_accumulation_steps == 1
    assert read.notices == (
        "lora_rank comes from the environment variable SIMPLETUNER_LORA_RANK",
        "seed comes from the environment variable SIMPLETUNER_SEED",
    )


@pytest.mark.parametrize(
    "words",
    [
        ["lora_rank=8", "push_to_hub=true", "validation_seed=-5"],
        ["--lora_rank", "8", "--push_to_hub", "--validation_seed", "-5"],
        ["--lora-rank=8", "--validation-seed=-5", "--push-to-hub"],
        ["--push_to_hub", "lora_rank=8", "--validation_seed", "-5"],
    ],
)
def test_options_on_the_command_line_may_be_written_in_any_way(desk: Desk, words: Sequence[str]) -> None:
    read = desk.read({}, *words).config
    assert (read.adapter.lora_rank, read.validation.validation_seed) == (8, -5)
    assert read.publishing.push_to_hub is True


def test_a_value_on_the_command_line_may_hold_equal_signs_and_blanks(desk: Desk) -> None:
    read = desk.read({}, "--optimizer_config", "weight_decay=0.1", "validation_prompt=a = b").config
    assert read.optimization.optimizer_config == {"weight_decay": 0.1}
    assert read.validation.validation_prompt == "a = b"


def test_a_null_in_the_file_lets_the_variables_beside_it_through(desk: Desk) -> None:
    desk.file("config.env", "TRAINING_SEED=7\n")
    assert desk.read({"seed": None}).config.run.seed == 7


# Which config


def found(folder: Path, selection: Selection | None = None, **environment: str) -> str:
    where = load(selection or Selection(), environment=environment, folder=folder).path
    return where.relative_to(folder).as_posix()


@pytest.fixture
def house(desk: Desk) -> Path:
    """Several configs: config/config.json, config/mine/config.json and other/config.toml."""
    options = {"data_backend_config": "data.json"}
    desk.file("config/config.json", options)
    desk.file("config/mine/config.json", options)
    desk.file("config/both/config.json", options)
    desk.file("config/both/config.env", "DATALOADER_CONFIG=data.json")
    desk.file("other/config.toml", 'data_backend_config = "data.json"')
    return desk.folder


def test_without_a_choice_the_config_folder_is_used(house: Path) -> None:
    assert found(house) == "config/config.json"
    assert found(house, ENV="default") == "config/config.json"


def test_an_environment_is_a_folder_below_config_or_here(house: Path) -> None:
    assert found(house, Selection(env="mine")) == "config/mine/config.json"
    assert found(house, Selection(env="other")) == "other/config.toml"


def test_environment_variables_choose_too_in_a_fixed_order(house: Path) -> None:
    assert found(house, ENV="mine") == "config/mine/config.json"
    assert found(house, ENV="nowhere", SIMPLETUNER_ENV="mine") == "config/mine/config.json"
    assert found(house, SIMPLETUNER_ENV="nowhere", SIMPLETUNER_ENVIRONMENT="mine") == "config/mine/config.json"
    assert found(house, Selection(env="mine"), SIMPLETUNER_ENVIRONMENT="nowhere") == "config/mine/config.json"


def test_the_kind_of_file_can_be_chosen(house: Path) -> None:
    assert found(house, Selection(env="both")) == "config/both/config.json"
    assert found(house, Selection(env="both"), CONFIG_BACKEND="env") == "config/both/config.env"


def test_a_file_or_a_folder_can_be_named(house: Path) -> None:
    assert found(house, Selection(config="config/mine/config.json")) == "config/mine/config.json"
    assert found(house, Selection(config="config/mine/config")) == "config/mine/config.json"
    assert found(house, Selection(config="config/mine")) == "config/mine/config.json"
    assert found(house, CONFIG_PATH="other/config.toml") == "other/config.toml"


def test_what_the_command_line_names_wins_over_a_path_in_the_environment(house: Path) -> None:
    assert found(house, Selection(env="mine"), CONFIG_PATH="other/config.toml") == "config/mine/config.json"
    assert found(house, Selection(config="config/mine"), CONFIG_PATH="other/config.toml") == "config/mine/config.json"


def test_an_example_is_found_from_anywhere(tmp_path: Path) -> None:
    path = selection.find(Selection(example="demo"), {}, tmp_path)
    assert path == selection.find(Selection(), {"ENV": "examples/demo"}, tmp_path)
    assert read(path, environment={}, folder=tmp_path).config.tracking.tracker_run_name == "zorb"


def test_a_data_file_of_an_example_is_found_from_anywhere(desk: Desk) -> None:
    read = desk.read({"data_backend_config": "config/examples/demo/multidatabackend.json"})
    assert read.config.data[0].id == "zorb"


def test_files_are_found_from_the_working_folder_and_beside_the_config(desk: Desk) -> None:
    desk.file("deep/config.json", {"data_backend_config": "beside.json"})
    desk.file("deep/beside.json", DATA)
    assert found(desk.folder, Selection(config="deep/config.json")) == "deep/config.json"


def choosing(folder: Path, selection: Selection, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(selection, environment=environment, folder=folder)
    return str(caught.value)


def test_two_choices_at_once_are_refused(tmp_path: Path) -> None:
    assert choosing(tmp_path, Selection(config="a", env="b")) == (
        "the command line has 1 problem:\n  --config: cannot be used together with --env"
    )
    assert choosing(tmp_path, Selection(env="a", example="b")) == (
        "the command line has 1 problem:\n  --env: cannot be used together with --example"
    )


def test_a_missing_config_is_told_with_the_places_and_a_way_on(tmp_path: Path) -> None:
    places = ", ".join(str(tmp_path / name) for name in ("a.json", "a.json.json"))
    assert choosing(tmp_path, Selection(config="a.json")) == (
        "the command line has 1 problem:\n  --config a.json: no config file was found; make one with `simpletuner "
        f"configure`, or try `simpletuner train --example demo`. Looked for: {places}"
    )


def test_a_missing_example_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    assert choosing(tmp_path, Selection(example="dmeo")).startswith(
        "the command line has 1 problem:\n  --example dmeo: there is no such example; did you mean 'demo'? there are: "
    )


# What cannot be read


def test_broken_json_is_told_with_its_place(desk: Desk) -> None:
    assert desk.complaints('{"lora_rank": 8,\n  "seed" 7}') == ["line 2, column 10: expecting ':' delimiter"]


def test_what_json_lacks_is_said(desk: Desk) -> None:
    assert desk.complaints('{"seed": 7,}') == [
        "line 1, column 11: JSON allows no comma after the last entry; take it out"
    ]
    assert desk.complaints('{"seed": 7 // mine\n}') == ["line 1, column 12: JSON has no comments; take this one out"]


def test_a_broken_data_file_is_told_with_its_place(desk: Desk) -> None:
    place = desk.file("data.json", '[{"id": "a"},]')
    (said,) = desk.complaints({})
    assert said.startswith(f"{place} › line 1, column 1")
    assert said.endswith(": JSON allows no comma after the last entry; take it out")


def test_other_broken_files_are_told_too(desk: Desk) -> None:
    assert desk.complaints([1]) == ["(whole file): must be an object of options, {...}"]
    assert desk.complaints("a = ", name="config.toml") == ["(whole file): Invalid value (at end of document)"]
    assert desk.complaints("A=1\nB='x", name="config.env") == ["(whole file): line 2: no closing quotation"]
    assert desk.complaints("A=1\nseed 7", name="config.env") == [
        "(whole file): line 2: 'seed' is not of the form NAME=value"
    ]
    desk.file("config.env", "B='x")
    assert desk.complaints({}) == ["(whole file): line 1: no closing quotation"]


def test_a_file_that_is_not_text_is_told(desk: Desk) -> None:
    path = desk.folder / "config.json"
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match=r"\(whole file\): is not UTF-8 text: "):
        read(path, environment={}, folder=desk.folder)


def test_a_key_that_is_given_twice_is_told(desk: Desk) -> None:
    assert desk.complaints('{"seed": 7, "seed": 8}') == ["(whole file): 'seed' is given twice; keep one of the two"]
    assert desk.complaints({"lora-rank": 4, "--lora_rank": 8}) == ["lora_rank: is given twice, as 4 and 8; keep one"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"learnin_rate": 1},
            "learnin_rate: there is no option of this name; did you mean 'learning_rate'? see documentation/OPTIONS.md",
        ),
        ({"qqqq": 1}, "qqqq: there is no option of this name; see documentation/OPTIONS.md"),
        (
            {"tread_config": {"routs": []}},
            "tread_config.routes: is required; "
            "tread_config.routs: there is no option of this name; see documentation/OPTIONS.md",
        ),
        (
            {"tread_config": {"routes": [{**ROUTES["routes"][0], "selection_ratio": 2}]}},
            "tread_config.routes.0.selection_ratio: must be below 1, got 2",
        ),
        ({"tread_config": {"routes": []}}, "tread_config.routes: names no route; add one, or leave tread_config out"),
        ({"tread_config": "{"}, "tread_config: is neither an object nor JSON text of one, got '{'"),
        ({"lora_rank": "big"}, "lora_rank: must be a whole number, got 'big'"),
        ({"lora_rank": 16.5}, "lora_rank: must be a whole number, got 16.5"),
        ({"lora_rank": True}, "lora_rank: must be a whole number, got 'true'"),
        ({"lora_rank": 0}, "lora_rank: must be at least 1, got 0"),
        ({"learning_rate": "fast"}, "learning_rate: must be a number, got 'fast'"),
        ({"learning_rate": -1}, "learning_rate: must be above 0, got -1"),
        ({"flux_guidance_value": "nan"}, "flux_guidance_value: must be a number, got 'nan'"),
        ({"caption_dropout_probability": 2}, "caption_dropout_probability: must be at most 1, got 2"),
        ({"gradient_checkpointing": "maybe"}, "gradient_checkpointing: must be true or false, got 'maybe'"),
        ({"tracker_run_name": ["a"]}, "tracker_run_name: must be text, got ['a']"),
        (
            {"optimizer": "adamw_bf61"},
            "optimizer: no optimizer is called 'adamw_bf61'; did you mean 'adamw_bf16'? the choices are adamw_bf16, "
            "adamw, torch-adamw, torch-adam, torch-sgd, torch-sgd-nesterov, torch-radam, torch-nadam, torch-rmsprop, "
            "torch-adagrad, torch-adadelta, torch-adafactor, torch-adamax, torch-asgd, bnb-adagrad, bnb-adagrad8bit, "
            "bnb-adam, bnb-adam8bit, bnb-adamw, bnb-adamw8bit, bnb-adamw-paged, bnb-adamw8bit-paged, bnb-ademamix, "
            "bnb-ademamix8bit, bnb-ademamix-paged, bnb-ademamix8bit-paged, bnb-lion, bnb-lion8bit, bnb-lion-paged, "
            "bnb-lion8bit-paged and 38 more",
        ),
        (
            {"model_family": "Fluxx"},
            "model_family: no model family is called 'Fluxx'; did you mean 'flux'? the choices are flux, chroma",
        ),
        (
            {"report_to": "tensorbord"},
            "report_to.0: no tracker is called 'tensorbord'; did you mean 'tensorboard'? the choices are none, all, "
            "tensorboard, wandb, trackio",
        ),
        ({"optimizer_config": "eps"}, "optimizer_config: 'eps' is not of the form name=value"),
        ({"validation_resolution": "big"}, "validation_resolution: 'big' is not a size; write 1024 or 1024x768"),
        (
            {"max_train_steps": 10, "num_train_epochs": 2},
            "max_train_steps, num_train_epochs: cannot both be set, got 10 steps and 2 epochs; set one of them to 0",
        ),
        (
            {"max_train_steps": 0, "num_train_epochs": 0},
            "max_train_steps, num_train_epochs: are 0 or not set, so there is nothing to train; set one of them to "
            "more than 0",
        ),
        (
            {"optimizer_beta1": 0.9},
            "optimizer_beta1, optimizer_beta2: go together; give both or neither",
        ),
        (
            {"lr_scheduler": "cosine", "learning_rate": 1e-7},
            "learning_rate, lr_end: 1e-07 is not above 4e-07, where the cosine schedule ends; lower lr_end",
        ),
        (
            {"flux_guidance_min": 5},
            "flux_guidance_min, flux_guidance_max: 5 is above 4; swap them",
        ),
        (
            {"delete_unwanted_images": True},
            "delete_unwanted_images: your images are never deleted; unwanted ones are left out and listed in the skip "
            "list",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_the_users_words(desk: Desk, options: dict[str, Any], complaint: str) -> None:
    assert "; ".join(desk.complaints(options)) == complaint


def test_a_missing_file_is_told_with_the_places(desk: Desk) -> None:
    options = {"data_backend_config": "dta.json", "user_prompt_library": "prompts.json"}
    assert desk.complaints(options) == [
        f"user_prompt_library: 'prompts.json' exists neither in {desk.folder} nor beside config.json",
        f"data_backend_config: 'dta.json' exists neither in {desk.folder} nor beside config.json",
    ]


@pytest.mark.parametrize("options", [{}, {"data_backend_config": None}, {"data_backend_config": ""}])
def test_the_data_file_is_required(desk: Desk, options: dict[str, Any]) -> None:
    assert desk.complaints(json.dumps(options)) == ["data_backend_config: is required"]


def test_a_prompt_library_that_is_none_is_told(desk: Desk) -> None:
    place = desk.file("prompts.json", '"a cat"')
    assert desk.complaints({"user_prompt_library": "prompts.json"}) == [
        f"user_prompt_library: '{place}' must be an object of names and prompts"
    ]
    desk.file("prompts.json", {"cat": 7})
    assert desk.complaints({"user_prompt_library": "prompts.json"}) == [
        f"user_prompt_library: '{place}' has no text for 'cat'"
    ]


def test_a_missing_folder_of_pictures_is_told_before_a_run(desk: Desk) -> None:
    desk.data([{"id": "subject", "instance_data_dir": "nowhere"}])
    desk.file("config.json", {"data_backend_config": "data.json"})
    assert choosing(desk.folder, Selection(config="config.json")) == (
        f"{desk.folder}/config.json has 1 problem:\n  data set 'subject' › instance_data_dir: there is no folder "
        "nowhere; make it and put your images there, or name another one"
    )


def test_an_unknown_key_of_a_data_set_is_told_by_its_id(desk: Desk) -> None:
    desk.data([{"id": "subject", "instance_data_dir": "pictures", "resoluton": 512}])
    assert desk.complaints({}) == [
        "data set 'subject' › resoluton: there is no option of this name; did you mean 'resolution'? see "
        "documentation/DATALOADER.md"
    ]


def test_every_problem_is_told_at_once(desk: Desk) -> None:
    desk.data([{"id": "a", "repeats": -1}, {"id": "b", "instance_data_dir": "b", "resolution": 0.5}])
    options = {
        "learnin_rate": 1,
        "lora_rank": 0,
        "lora_dropout": "x",
        "custom_tracker": "mine",
        "hub_model_id": "https://hub/you/me",
        "push_to_hub": True,
        "optimizer_beta1": 0.9,
        "learning_rate": "x",
        "max_train_steps": 5,
        "num_train_epochs": 5,
    }
    assert desk.complaints(options) == [
        "learnin_rate: there is no option of this name; did you mean 'learning_rate'? see documentation/OPTIONS.md",
        "lora_rank: must be at least 1, got 0",
        "lora_dropout: must be a number, got 'x'",
        "max_train_steps, num_train_epochs: cannot both be set, got 5 steps and 5 epochs; set one of them to 0",
        "learning_rate: must be a number, got 'x'",
        "optimizer_beta1, optimizer_beta2: go together; give both or neither",
        "data set 'a' › repeats: must be at least 0, got -1",
        "data set 'a' › instance_data_dir: is required",
        "custom_tracker: 'mine' is not served yet; use tensorboard or wandb",
        "hub_model_id: 'https://hub/you/me' is an address; give the id alone, such as you/my-lora",
        "data set 'b' › resolution: 0.5 would be an edge in pixels; for megapixels set resolution_type to area",
    ]


def test_the_message_counts_and_lists(desk: Desk) -> None:
    with pytest.raises(ConfigError) as caught:
        desk.read({"lora_rank": 0, "seed": "x"})
    assert str(caught.value) == (
        f"{desk.folder}/config.json has 2 problems:\n"
        "  lora_rank: must be at least 1, got 0\n"
        "  seed: must be a whole number, got 'x'"
    )


# What can be read and is refused


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"model_type": "full", "lora_rank": 8}, "lora_rank: is about an adapter, and model_type full trains none; "
                                                 "leave it out, or use lora"),
        ({"delete_model_after_load": True}, "delete_model_after_load: true is not served yet; delete the Hub's cache "
                                            "yourself after training"),
        ({"peft_lora_mode": "singlora"}, "peft_lora_mode: 'singlora' is not served yet; use standard"),
        ({"mixed_precision": "fp16"}, "mixed_precision: 'fp16' is not served yet; use bf16"),
        ({"group_offload_vae": True, "ramtorch_vae": True}, "ramtorch_vae: does not go together with "
         "group_offload_vae: both decide where weights are; leave one out"),
        ({"report_to": "tensorboard,comet_ml"}, "report_to: 'comet_ml' is not served yet; use tensorboard, wandb or "
                                                "trackio"),
        ({"gradient_checkpointing_backend": "torch-ffn"}, "gradient_checkpointing_backend: 'torch-ffn' is not served "
                                                          "yet; use torch"),
        ({"musubi_blocks_to_swap": 8, "enable_group_offload": True}, "musubi_blocks_to_swap: does not go together "
         "with enable_group_offload: both decide where weights are; leave one of them out"),
        ({"pretrained_model_name_or_path": "flux.safetensors"}, "pretrained_model_name_or_path: there is no file "
                                           "'flux.safetensors'; check the path"),
        ({"pretrained_model_name_or_path": "/no/where"}, "pretrained_model_name_or_path: there is no folder "
                                           "'/no/where'; give a folder in diffusers layout, a .safetensors file, "
                                           "or an id on the Hub"),
        ({"peft_lora_target_modules": []}, "peft_lora_target_modules: names no layer; name some, or leave it out for "
                                           "flux_lora_target"),
        ({"tread_config": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 5, "end_layer_idx": 2}]}},
         "tread_config.routes.0: ends at block 2, before it starts at 5; swap them"),
        ({"maximum_image_size": 2048}, "data set 'subject' › maximum_image_size: needs target_downsample_size too: the "
                                       "size to shrink to"),
        ({"minimum_image_size": 512, "resolution": 1, "resolution_type": "area"}, "data set 'subject' › "
         "minimum_image_size: 512 would be megapixels; for an edge in pixels set resolution_type to pixel_area"),
        ({"caption_strategy": "instanceprompt"}, "data set 'subject' › instance_prompt: is required by "
                                                 "caption_strategy instanceprompt"),
    ],
)  # fmt: skip
def test_what_is_not_served_or_does_not_go_together_is_told_with_advice(
    desk: Desk, options: dict[str, Any], refusal: str
) -> None:
    assert desk.refusals(options) == [refusal]


def test_what_is_refused_stops_a_run(desk: Desk) -> None:
    desk.file("config.json", {"data_backend_config": "data.json", "mixed_precision": "fp16"})
    assert "mixed_precision: 'fp16' is not served yet" in choosing(desk.folder, Selection(config="config.json"))


def test_asking_for_the_default_is_not_refused(desk: Desk) -> None:
    read = desk.read(
        {"controlnet": "false", "use_ema": False, "flow_cubic_schedule_weights": None, "quantize_via": "cpu"}
    )
    assert (read.problems, read.notices) == ((), ())


def test_what_has_no_effect_is_told(desk: Desk) -> None:
    desk.data([{**DATA[0], "scan_for_errors": True}])
    assert desk.read({"snr_gamma": 5, "ema_decay": 0.9}).notices == (
        "snr_gamma has no effect: it is for models that are trained by diffusion steps; FLUX is trained by flow "
        "matching",
        "data set 'subject' › scan_for_errors has no effect: caches are addressed by content, so nothing outdated is "
        "ever used",
        "ema_decay has no effect: use_ema is not set",
    )


# What comes out


def test_a_config_can_be_written_and_read_again(desk: Desk) -> None:
    first = desk.read({"lora_rank": 8, "tread_config": ROUTES, "report_to": "wandb", "cache_dir": "x"}).config
    written = json.loads(first.dump())
    desk.data(written.pop("data_backends"))
    assert desk.read(written).config.flat() == first.flat()


def test_secrets_are_never_written(desk: Desk) -> None:
    keys = {"aws_bucket_name": "b", "aws_access_key_id": "{env:KEY}", "aws_secret_access_key": "hidden"}
    desk.data([*DATA, {"id": "texts", "dataset_type": "text_embeds", "type": "aws", **keys}])
    read = desk.read({}, environment={"KEY": "mykey"}).config
    assert not any(secret in text for secret in ("mykey", "hidden") for text in (read.dump(), repr(read)))


def test_no_option_is_owned_by_two_sections() -> None:
    names = [name for section in SECTIONS.values() for name in section.model_fields]
    assert sorted(names) == sorted(OWNER)


def test_reading_a_config_imports_nothing_heavy(desk: Desk) -> None:
    desk.file("config.json", {"data_backend_config": "data.json", "tread_config": ROUTES})
    code = (
        "import sys; from pathlib import Path; from simpletuner.config import load; "
        "from simpletuner.selection import Selection; import simpletuner.cli.check; "
        "load(Selection(config='config.json'), environment={}, folder=Path.cwd()); "
        "print([name for name in ('torch', 'diffusers', 'transformers', 'peft', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=desk.folder, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_address_is_written_without_what_may_be_secret_in_it(desk: Desk) -> None:
    source = "https://me:hidden@data.example.com/shard-{000..003}.tar?token=hidden"
    desk.data([*DATA, {"id": "shards", "type": "webshart", "source": source}])
    config = desk.read({}).config
    for text in (config.dump(), config.dump(public=True)):
        assert "hidden" not in text and "https://data.example.com/shard-{000..003}.tar" in text
