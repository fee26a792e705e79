"""Traps that configs of SimpleTuner's users fall into (sections 1.6, 2.12 and 15 of the reference), one by one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simpletuner.config import OWNER, Reading, RunConfig, load, read, secrets_of
from simpletuner.errors import ConfigError
from simpletuner.legacy import FOREIGN, INVERTED, OBSOLETE, RENAMED
from simpletuner.selection import Selection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with images and a data file."""
    (tmp_path / "config").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "config" / "data.json").write_text(
        json.dumps([{"id": "subject", "instance_data_dir": str(tmp_path / "images")}])
    )
    return tmp_path


def write(folder: Path, **options: object) -> Path:
    path = folder / "config" / "config.json"
    path.write_text(json.dumps({"data_backend_config": "config/data.json", **options}))
    return path


def reading(folder: Path, *words: str, environment: dict[str, str] | None = None, **options: object) -> Reading:
    return read(write(folder, **options), words, environment=environment or {}, folder=folder)


def config(folder: Path, *words: str, environment: dict[str, str] | None = None, **options: object) -> RunConfig:
    write(folder, **options)
    return load(Selection(), words, environment=environment or {}, folder=folder).config


def problems(folder: Path, *words: str, environment: dict[str, str] | None = None, **options: object) -> list[str]:
    write(folder, **options)
    with pytest.raises(ConfigError) as caught:
        load(Selection(), words, environment=environment or {}, folder=folder)
    return [str(problem) for problem in caught.value.problems]


# How a value becomes an option


@pytest.mark.parametrize("key", ["lora_rank", "--lora_rank", "lora-rank", "--lora-rank"])
@pytest.mark.parametrize("value", [32, 32.0, "32", " 32 "])
def test_spelling_makes_no_difference(folder: Path, key: str, value: object) -> None:
    assert config(folder, **{key: value}).adapter.lora_rank == 32


@pytest.mark.parametrize(
    ("value", "is_on"), [(True, True), ("true", True), (False, False), ("false", False), ("0", False), (None, True)]
)
def test_a_switch_means_what_it_says_even_as_text(folder: Path, value: object, is_on: bool) -> None:
    assert config(folder, gradient_checkpointing=value).memory.gradient_checkpointing is is_on


def test_null_and_empty_numbers_leave_the_default(folder: Path) -> None:
    found = config(folder, lora_rank=None, seed="", validation_seed=None, learning_rate="")
    assert (found.adapter.lora_rank, found.run.seed, found.optimization.learning_rate) == (16, None, 1e-4)


def test_one_key_in_two_spellings_is_a_problem_unless_they_agree(folder: Path) -> None:
    assert config(folder, **{"--lora_rank": 8, "lora_rank": 8}).adapter.lora_rank == 8
    found = problems(folder, **{"--lora_rank": 8, "lora_rank": 16})
    assert found == ["lora_rank: is given twice, as 8 and 16; keep one"]


ROUTES = [{"selection_ratio": 0.5, "start_layer_idx": 2, "end_layer_idx": -2}]


@pytest.mark.parametrize("value", [{"routes": ROUTES}, json.dumps({"routes": ROUTES}), str({"routes": ROUTES})])
def test_routes_may_be_an_object_or_text_of_one(folder: Path, value: object) -> None:
    tread = config(folder, tread_config=value).routing.tread_config
    assert tread is not None
    assert [route.model_dump() for route in tread.routes] == ROUTES


def test_optimizer_settings_may_be_an_object_or_pairs(folder: Path) -> None:
    wanted = {"weight_decay": 0.05, "eps": 1e-8, "amsgrad": True}
    text = "weight_decay=0.05, eps=1e-8,amsgrad=true"
    assert config(folder, optimizer_config=wanted).optimization.optimizer_config == wanted
    assert config(folder, optimizer_config=text).optimization.optimizer_config == wanted
    assert config(folder, optimizer_config=json.dumps(wanted)).optimization.optimizer_config == wanted


@pytest.mark.parametrize("value", [["to_q", "to_k"], "to_q, to_k", '["to_q", "to_k"]'])
def test_layers_may_be_a_list_or_text_of_one(folder: Path, value: object) -> None:
    assert config(folder, peft_lora_target_modules=value).adapter.peft_lora_target_modules == ("to_q", "to_k")


def test_a_list_is_refused_whole_and_not_cut_down_to_its_last_item(folder: Path) -> None:
    found = problems(folder, flow_custom_timesteps=[0.1, 0.2])
    assert found == ["flow_custom_timesteps: (0.1, 0.2) is not served yet; use flow_sigmoid_scale"]


def test_an_object_that_is_not_served_is_refused_and_not_dropped(folder: Path) -> None:
    found = problems(folder, quantization_config={"load_in_4bit": True})
    assert found == ["quantization_config: {'load_in_4bit': True} is not served yet; use base_model_precision"]


@pytest.mark.parametrize(
    ("options", "section", "value"),
    [
        ({"num_train_epochs": 0.5}, "duration", 0.5),
        ({"text_encoder_lr": 1e-5}, "adapter", 1e-5),
        ({"snr_gamma": 5.0}, "objective", 5.0),
        ({"resolution": 1.0, "resolution_type": "area"}, "data_defaults", 1.0),
        ({"minimum_image_size": 0.5, "resolution_type": "area", "resolution": 1}, "data_defaults", 0.5),
    ],
)
def test_fractions_are_taken_where_they_mean_something(
    folder: Path, options: dict[str, object], section: str, value: float
) -> None:
    name = next(iter(options))
    assert config(folder, **options).__dict__[section].__dict__[name] == value


def test_an_environment_variable_fills_a_value_and_a_missing_one_is_named(folder: Path) -> None:
    found = config(folder, environment={"RUN": "seven"}, tracker_run_name="{env:RUN}")
    assert found.tracking.tracker_run_name == "seven"
    assert problems(folder, tracker_run_name="{env:RUN}") == ["{env:RUN}: this environment variable is not set"]


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_an_older_name_is_understood(folder: Path, old: str) -> None:
    new = RENAMED[old]
    value = {"fuse_qkv_projections": False, "hub_model_id": "me/mine", "user_prompt_library": None}.get(new, 7)
    found = reading(folder, **{old: value})
    assert f"{old} is called {new} now" in found.notices
    expected = reading(folder, **{new: value}).config
    assert found.config == expected


def test_todays_name_wins_over_an_older_one(folder: Path) -> None:
    assert config(folder, validation_steps=50, validation_step_interval=70).validation.validation_step_interval == 70


def test_an_inverted_name_is_turned_round(folder: Path) -> None:
    assert config(folder, vae_cache_preprocess="true").data_defaults.vae_cache_ondemand is False
    assert problems(folder, vae_cache_preprocess=False)[0].startswith("vae_cache_ondemand: True is not served yet")


@pytest.mark.parametrize(
    "key",
    [
        *("aspect_ratio_bucketing", "aspect_ratio_bucketing_min", "repeats", "ez_model_type"),
        *("audio_channels", "framerate", "pretrained_unet_subfolder", "crepa_lambda", "sd3_t5_uncond_behaviour"),
    ],
)
def test_keys_without_meaning_are_passed_over_with_a_notice(folder: Path, key: str) -> None:
    found = reading(folder, **{key: "anything"})
    assert found.problems == ()
    assert [notice for notice in found.notices if notice.startswith(key) and notice.endswith("is ignored")]


def test_keys_of_the_web_interface_are_passed_over(folder: Path) -> None:
    assert reading(folder, __disabled_fields__=["x"], __active_tab__="model").notices == ()


def test_no_option_is_hidden_by_the_tables_of_older_keys() -> None:
    hidden = [key for key in OWNER if key in RENAMED or key in INVERTED or key in OBSOLETE or FOREIGN.fullmatch(key)]
    assert hidden == []
    assert {*RENAMED.values(), *INVERTED.values()} <= OWNER.keys()


# Mistakes


def test_an_unknown_key_names_the_nearest_one(folder: Path) -> None:
    assert problems(folder, learning_rat=1e-4, validation_res=512) == [
        "learning_rat: there is no option of this name; did you mean 'learning_rate'? see documentation/OPTIONS.md",
        "validation_res: there is no option of this name; did you mean 'validation_seed'? see documentation/OPTIONS.md",
    ]


def test_everything_that_is_wrong_is_told_at_once(folder: Path) -> None:
    found = problems(folder, lora_rnak=8, learning_rate=-1, lora_rank="many", optimizer="prodgy", use_ema=True)
    assert [problem.partition(":")[0] for problem in found] == [
        *("lora_rnak", "lora_rank", "learning_rate", "optimizer", "use_ema")
    ]
    assert "no optimizer is called 'prodgy'; did you mean 'prodigy'?" in found[3]


@pytest.mark.parametrize("name", ["dadaptation", "adafactor", "adamw8bit"])
def test_an_old_optimizer_name_is_refused_with_the_choices(folder: Path, name: str) -> None:
    assert f"no optimizer is called '{name}'" in problems(folder, optimizer=name)[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"max_train_steps": 100, "num_train_epochs": 2},
            "max_train_steps, num_train_epochs: cannot both be set, got 100 steps and 2 epochs; set one of them to 0",
        ),
        ({"max_train_steps": 0, "num_train_epochs": 0}, "set one of them to more than 0"),
        ({"num_train_epochs": 0}, "set one of them to more than 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: must be at least 1, got 0"),
        ({"optimizer_beta1": 0.9}, "give both or neither"),
        ({"lr_scheduler": "polynomial", "learning_rate": 1e-8}, "lower lr_end"),
        ({"flux_guidance_min": 5}, "flux_guidance_min, flux_guidance_max: 5 is above 4; swap them"),
        (
            {"gradient_checkpointing_interval": 2},
            "gradient_checkpointing_interval: 2 is not served yet; use 1, which is every block",
        ),
        ({"gradient_checkpointing_interval": 0}, "gradient_checkpointing_interval: must be at least 1, got 0"),
        ({"validation_resolution": "big"}, "'big' is not a size; write 1024 or 1024x768"),
        ({"validation_guidance_skip_layers": "1,2"}, "validation_guidance_skip_layers: '1,2' is not served yet"),
        ({"maximum_image_size": 2048}, "needs target_downsample_size too"),
        ({"model_type": "full"}, "model_type: 'full' is not served yet; use lora"),
        ({"mixed_precision": "fp8"}, "mixed_precision: 'fp8' is not served yet; use bf16"),
        ({"lora_init_type": "loftq"}, "lora_init_type: 'loftq' is not served yet; use default"),
        ({"user_prompt_library": "nowhere.json"}, "'nowhere.json' exists neither in"),
        ({"pretrained_model_name_or_path": "./nowhere"}, "there is no folder './nowhere'"),
        ({"pretrained_model_name_or_path": "flux.safetensors"}, "is a single file, which is not served yet"),
        ({"report_to": "comet_ml"}, "'comet_ml' is not served yet; use tensorboard or wandb"),
        ({"tokenizer_max_length": 0}, "tokenizer_max_length"),
        ({"delete_unwanted_images": True}, "your images are never deleted"),
        ({"tread_config": "yes"}, "is neither an object nor JSON text of one"),
        ({"tread_config": {"routes": []}}, "tread_config"),
        (
            {"tread_config": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 9, "end_layer_idx": 3}]}},
            "tread_config.routes.0: ends at block 3, before it starts at 9",
        ),
        ({"peft_lora_target_modules": []}, "names no layer"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(folder: Path, options: dict[str, object], said: str) -> None:
    found = problems(folder, **options)
    assert len(found) == 1
    assert said in found[0]


def test_a_length_is_needed_only_once(folder: Path) -> None:
    assert config(folder, max_train_steps=100).duration.num_train_epochs is None
    assert config(folder, max_train_steps=100, num_train_epochs=0).duration.max_train_steps == 100
    assert config(folder, max_train_steps=0, num_train_epochs="3").duration.num_train_epochs == 3


# What an option then is


@pytest.mark.parametrize(
    ("value", "sizes"),
    [
        (1024, ((1024, 1024),)),
        ("1024x768", ((1024, 768),)),
        ("512, 768x512", ((512, 512), (768, 512))),
        ([512, "768x512"], ((512, 512), (768, 512))),
        (1.05, ((1024, 1024),)),
        ("0.25", ((496, 496),)),
        ("1030", ((1024, 1024),)),
    ],
)
def test_validation_sizes_are_pixels_or_megapixels(
    folder: Path, value: object, sizes: tuple[tuple[int, int], ...]
) -> None:
    assert config(folder, validation_resolution=value).validation.sizes() == sizes


@pytest.mark.parametrize(
    ("value", "trackers"),
    [
        ("none", []),
        ("all", ["tensorboard", "wandb"]),
        ("wandb", ["wandb"]),
        ("wandb,tensorboard", ["tensorboard", "wandb"]),
        (["wandb"], ["wandb"]),
        (None, []),
    ],
)
def test_several_trackers_may_be_named(folder: Path, value: object, trackers: list[str]) -> None:
    assert config(folder, report_to=value).tracking.trackers() == trackers


def test_the_word_none_is_no_prompt(folder: Path) -> None:
    assert config(folder, validation_prompt="None").validation.validation_prompt is None


def test_defaults_are_of_use_for_flux(folder: Path) -> None:
    found = config(folder)
    assert found.optimization.learning_rate == 1e-4
    assert found.optimization.grad_clip_method == "norm"
    assert found.validation.sizes() == ((1024, 1024),)
    assert found.validation.validation_guidance == 3.0
    assert found.model.model_type == "lora"


# Layers


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(folder: Path) -> None:
    above = {"SIMPLETUNER_LORA_RANK": "8", "SIMPLETUNER_SEED": "5"}
    found = config(folder, "--lora_rank=4", environment=above, lora_rank=16, seed=1, lora_alpha=2)
    assert (found.adapter.lora_rank, found.run.seed, found.adapter.lora_alpha) == (4, 5, 2)


@pytest.mark.parametrize("words", [["lora_rank=4"], ["--lora_rank", "4"], ["--lora-rank=4"], ["--lora_rank=4"]])
def test_an_option_on_the_command_line_acts_in_every_spelling(folder: Path, words: list[str]) -> None:
    assert config(folder, *words, lora_rank=16).adapter.lora_rank == 4


# What the program is


def test_reading_a_config_imports_neither_torch_nor_a_web_server(folder: Path) -> None:
    path = write(folder)
    script = (
        "import sys; from pathlib import Path; from simpletuner.config import read;"
        f"read(Path({str(path)!r}), environment={{}}, folder=Path({str(folder)!r}));"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy', 'pandas', 'fastapi') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_secrets_do_not_appear_in_what_is_written_down(folder: Path) -> None:
    bucket = {"id": "far", "type": "aws", "aws_bucket_name": "b", "aws_access_key_id": "who-i-am"}
    (folder / "config" / "data.json").write_text(json.dumps([{**bucket, "aws_secret_access_key": "{env:SECRET}"}]))
    found = reading(folder, environment={"SECRET": "what-i-know"}).config
    assert "who-i-am" not in found.dump()
    assert "what-i-know" not in found.dump()
    assert "what-i-know" not in repr(found)
    assert set(secrets_of(found)) == {"who-i-am", "what-i-know"}
