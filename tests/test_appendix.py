"""The config and data files that SimpleTuner's users have: each is read as it is, and all it asks for is understood."""

import json
from pathlib import Path

import pytest

from simpletuner.config import Reading, load, read
from simpletuner.data.checks import check_entries
from simpletuner.data.entries import read_entries
from simpletuner.data.options import DataDefaults
from simpletuner.errors import ConfigError
from simpletuner.selection import Selection
from simpletuner.training.prompts import library

APPENDIX = Path(__file__).parent / "appendix"
DATA_FILES = sorted((APPENDIX / "config").rglob("multidatabackend*"))

UNSERVED = {
    "config/examples/flux.peft-lora/config.json": [],
    "config/examples/flux.peft-lora+TREAD/config.json": [],
    "config/examples/flux.peft-controlnet-lora/config.json": [],
    "config/examples/kontext.peft-lora/config.json": [],
    "config/config.json.example": [],
}

WITHOUT_THEIR_FILES = {
    "config/examples/flux.peft-controlnet-lora/config.json": [
        'data set \'own\': has no pictures to follow; add "conditioning": {"type": "canny"} to it, or a data set '
        "with conditioning_type controlnet",
    ],
    "config/examples/kontext.peft-lora/config.json": [
        "model_flavour: 'kontext' changes pictures, and no data set has any to start from; add one with "
        "conditioning_type reference_strict, or use the flavour dev",
    ],
    "config/config.json.example": [
        "lycoris_config: there is no file 'config/lycoris_config.json'; give the path of a JSON file, or the settings "
        "themselves as an object",
    ],
}
"""What is said too when the data are plain images, and nothing lies beside the config."""


def reading(name: str, *words: str) -> Reading:
    return read(APPENDIX / name, words, environment={}, folder=APPENDIX)


def wrong(name: str, *words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        reading(name, *words)
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def local_data(tmp_path: Path) -> str:
    """A data file with a folder of this machine."""
    (tmp_path / "images").mkdir()
    path = tmp_path / "multidatabackend.json"
    path.write_text(json.dumps([{"id": "own", "instance_data_dir": str(tmp_path / "images")}]))
    return f"data_backend_config={path}"


@pytest.mark.parametrize("name", UNSERVED)
def test_a_config_is_read_and_only_what_is_not_served_yet_is_refused(name: str, local_data: str) -> None:
    found = [str(problem) for problem in reading(name, local_data).problems]
    assert found == UNSERVED[name] + WITHOUT_THEIR_FILES.get(name, [])


@pytest.mark.parametrize("name", [name for name in UNSERVED if not UNSERVED[name] and name not in WITHOUT_THEIR_FILES])
def test_the_plain_lora_examples_load_as_they_are_with_local_images(name: str, local_data: str) -> None:
    config = load(Selection(config=str(APPENDIX / name)), [local_data], environment={}, folder=APPENDIX).config
    assert config.duration.max_train_steps == 100
    assert config.precision.base_model_precision == "int8-quanto"
    assert config.validation.sizes() == ((1024, 1024),)


@pytest.mark.parametrize("name", [name for name in UNSERVED if "examples" in name])
def test_their_data_file_is_found_and_only_what_the_model_cannot_take_yet_is_refused(name: str) -> None:
    problems = [str(problem) for problem in reading(name).problems]
    assert problems[: len(UNSERVED[name])] == UNSERVED[name]
    assert all("_conditioning_" in problem for problem in problems[len(UNSERVED[name]) :])


def test_an_older_key_is_understood_with_a_notice(local_data: str) -> None:
    plain = reading("config/examples/flux.peft-lora/config.json", local_data)
    assert plain.config.validation.validation_step_interval == 50
    assert "validation_steps is called validation_step_interval now" in plain.notices


def test_options_without_effect_are_named_with_the_reason(local_data: str) -> None:
    told = reading("config/examples/flux.peft-lora/config.json", local_data).notices
    assert any(notice.startswith("disable_bucket_pruning has no effect: every bucket is used") for notice in told)
    assert "num_eval_images has no effect: there is no data set of dataset_type eval" in told


def test_a_nested_object_survives(local_data: str) -> None:
    tread = reading("config/examples/flux.peft-lora+TREAD/config.json", local_data).config.routing.tread_config
    assert tread is not None
    assert [one.model_dump() for one in tread.routes] == [
        {"selection_ratio": 0.5, "start_layer_idx": 2, "end_layer_idx": -2}
    ]


def test_a_document_of_the_web_interface_is_unwrapped_and_tells_what_is_missing(local_data: str) -> None:
    assert wrong("config/examples/default.json") == ["data_backend_config: is required"]
    config = reading("config/examples/default.json", local_data).config
    assert config.model.pretrained_model_name_or_path == "black-forest-labs/FLUX.1-dev"
    assert config.optimization.optimizer == "adamw_bf16"


def test_dashes_and_text_for_numbers_and_switches_are_understood(local_data: str) -> None:
    config = reading("config/config.json.example", local_data).config
    assert config.memory.gradient_checkpointing is True
    assert config.validation.validation_guidance_rescale == 0.0
    assert config.validation.validation_torch_compile is False
    assert config.optimization.learning_rate == 1e-4
    assert config.optimization.lr_warmup_steps == 100
    assert config.publishing.push_to_hub is True
    assert config.tracking.trackers() == ["wandb"]


def test_a_shell_file_beside_a_config_is_read(local_data: str) -> None:
    assert reading("config/examples/kontext.peft-lora/config.json", local_data).config.distributed.num_processes == 1


@pytest.mark.parametrize(
    "path", [path for path in DATA_FILES if path.parent.name == "examples"], ids=lambda path: path.stem
)
def test_a_data_set_on_the_hub_is_served_as_it_is(path: Path) -> None:
    entries, found = read_entries(json.loads(path.read_text()), placeholders={"model_family": "flux"})
    assert found == []
    assert check_entries(entries, DataDefaults()) == []
    assert {entry.cache_dir for entry in entries if entry.dataset_type == "text_embeds"} == {Path("cache/text/flux")}


def test_one_folder_at_two_sizes_with_and_without_crop_is_four_data_sets() -> None:
    raw = json.loads((APPENDIX / "config/multidatabackend-multiresolution.json.example").read_text())
    entries, found = read_entries(raw)
    assert found == []
    assert check_entries(entries, DataDefaults()) == []
    assert len(entries) == 5


def test_a_sketch_of_every_key_is_read_and_served() -> None:
    raw = json.loads((APPENDIX / "config/multidatabackend.json.example").read_text())
    entries, found = read_entries(raw)
    assert found == []
    assert check_entries(entries, DataDefaults()) == []


def test_placeholders_left_in_a_sketch_are_all_named_at_once() -> None:
    raw = json.loads((APPENDIX / "config/multidatabackend.json.example").read_text())
    options = {"crop_style": "random|center", "crop_aspect": "square|preserve", "resolution_type": "area|pixel"}
    _, found = read_entries([{**raw[0], **options}, *raw[1:]])
    places = [problem.where.rpartition(" › ")[2] for problem in found]
    assert sorted(places) == sorted(options)


def test_a_prompt_library_may_hold_texts_or_objects() -> None:
    assert library(APPENDIX / "config/user_prompt_library.json.example") == {
        "cat": "a cat sits on a red sofa",
        "dog": "a dog runs over a wet beach",
        "sign": "a wooden sign that reads HELLO",
    }


def test_lycoris_settings_may_stand_in_the_config_itself(local_data: str) -> None:
    settings = json.loads((APPENDIX / "config/examples/lycoris_config.json").read_text())
    words = ("lora_type=lycoris", f"lycoris_config={json.dumps(settings)}")
    found = reading("config/examples/flux.peft-lora/config.json", local_data, *words)
    assert found.problems == ()
    assert found.config.adapter.lycoris_config == settings


def test_every_file_of_the_appendix_is_tried() -> None:
    configs = {path.relative_to(APPENDIX).as_posix() for path in APPENDIX.rglob("config.json*")}
    assert configs == set(UNSERVED)
    assert len(DATA_FILES) == 8
