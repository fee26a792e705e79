"""Answers become files: new ones that pass the check, and old ones that keep what was not asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from models.flux import single_files
from models.flux.single_files import bfl_transformer
from PIL import Image
from safetensors.torch import save_file

from simpletuner.errors import ConfigError
from simpletuner.models.flux.flavours import FLAVOURS
from simpletuner.wizard.answers import CARDS, Answers, refused_repository, slug, suggested_prompts, suggested_steps
from simpletuner.wizard.changes import changed
from simpletuner.wizard.documents import Documents, answers_in, read
from simpletuner.wizard.models import PARTS
from simpletuner.wizard.pictures import look, refused
from simpletuner.wizard.write import problems, save

ANSWERS = Answers(
    pictures="pictures",
    captions="instanceprompt",
    trigger="zorb",
    flavour="dev",
    card="24",
    steps=1200,
    prompts=("a photo of zorb", "zorb at sea"),
    name="Zorb",
    output="output/zorb",
)


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three pictures in it, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def checked(documents: Documents, working: Path) -> list[str]:
    return [str(problem) for problem in problems(documents, environment={}, working=working)]


def written(working: Path, config: object, data: object = None, library: object = None) -> Documents:
    folder = working / "config"
    folder.mkdir(exist_ok=True)
    for name, value in (("config", config), ("multidatabackend", data), ("user_prompt_library", library)):
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return read(folder, working)


OLD_CONFIG = {
    "--model_family": "flux",
    "--lora_rank": 64,
    "--data_backend_config": "config/multidatabackend.json",
    "--user-prompt-library": "config/user_prompt_library.json",
    "--max_train_steps": "500",
    "--lr_scheduler": "cosine",
    "--output_dir": "somewhere",
    "--train_batch_size": 3,
}
OLD_DATA = [
    {"id": "faces", "type": "local", "is_regularisation_data": True, "instance_data_dir": "pictures", "repeats": 2},
    {
        "id": "mine",
        "type": "local",
        "caption_strategy": "instanceprompt",
        "instance_prompt": ["zorb", "a zorb"],
        "instance_data_dir": "pictures",
        "resolution": 0.5,
        "resolution_type": "area",
        "repeats": 7,
    },
    {"id": "texts", "dataset_type": "text_embeds", "default": True, "write_batch_size": 5},
]
OLD_LIBRARY = {
    "first": "a zorb",
    "second": {"prompt": "a sad zorb", "adapter_strength": 0.5},
    "third": "3",
    "fourth": "kept",
}


@pytest.mark.parametrize("card", list(CARDS))
@pytest.mark.parametrize("flavour", [name for name, one in FLAVOURS.items() if not (one.takes_references or one.fills)])
def test_every_card_and_flavour_gives_a_config_that_passes_the_check(working: Path, card: str, flavour: str) -> None:
    made = changed(read(working / "config", working), replace(ANSWERS, card=card, flavour=flavour), working)
    assert checked(made, working) == []
    assert answers_in(made) == replace(ANSWERS, card="", flavour=flavour)


def test_publishing_captions_from_files_and_an_own_model_pass_the_check(working: Path) -> None:
    answers = replace(
        ANSWERS, captions="textfile", trigger="", flavour="", base="me/flux", publish=True, repository="me/zorb"
    )
    made = changed(read(working / "config", working), answers, working)
    assert checked(made, working) == []
    assert made.config["hub_model_id"] == "me/zorb"
    assert made.config["pretrained_model_name_or_path"] == "me/flux"


@pytest.fixture
def single_file(tmp_path: Path) -> Path:
    """A file with a transformer and nothing else."""
    path: Path = single_files.written(tmp_path / "my-flux.safetensors", bfl_transformer(tiny.flux().state_dict()))
    return path


def test_a_file_with_the_rest_from_the_hub_passes_the_check(working: Path, single_file: Path) -> None:
    answers = replace(ANSWERS, base=str(single_file), flavour="dev")
    made = changed(read(working / "config", working), answers, working)
    assert checked(made, working) == []
    assert made.config["pretrained_model_name_or_path"] == str(single_file)
    assert made.config["model_flavour"] == "dev"
    assert answers_in(made) == replace(answers, card="")


def test_a_file_with_files_for_the_rest_passes_the_check(working: Path, single_file: Path) -> None:
    tensors = (
        "decoder.conv_in.weight",
        "embeddings.token_embedding.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
    )
    signs = dict(zip(PARTS, tensors, strict=True))
    parts = {option: str(working / f"{option}.safetensors") for option in signs}
    for option, sign in signs.items():
        save_file({sign: torch.zeros(1)}, parts[option])
    made = changed(
        read(working / "config", working), replace(ANSWERS, base=str(single_file), flavour="", parts=parts), working
    )
    assert checked(made, working) == []
    assert {option: made.config[option] for option in PARTS} == parts
    without = changed(replace(made, is_new=False), replace(answers_in(made), base="", flavour="dev", parts={}), working)
    assert not {*PARTS, "pretrained_model_name_or_path"} & set(without.config)


def test_a_transformer_that_the_config_takes_from_a_file_is_the_model_to_start_from(
    working: Path, single_file: Path
) -> None:
    config = {
        "data_backend_config": "config/multidatabackend.json",
        "pretrained_transformer_model_name_or_path": str(single_file),
        "model_flavour": "dev",
    }
    documents = written(working, config, OLD_DATA)
    known = answers_in(documents)
    assert known.base == str(single_file)
    assert changed(documents, known, working).config.items() >= config.items()
    made = changed(documents, replace(known, base="", flavour="krea"), working)
    assert "pretrained_transformer_model_name_or_path" not in made.config
    assert made.config["model_flavour"] == "krea"


def test_the_same_answers_change_nothing(working: Path) -> None:
    documents = written(working, OLD_CONFIG, OLD_DATA, OLD_LIBRARY)
    made = changed(documents, answers_in(documents), working)
    assert json.dumps([made.config, made.data, made.library]) == json.dumps([OLD_CONFIG, OLD_DATA, OLD_LIBRARY])
    assert checked(made, working) == []


def test_changed_answers_keep_order_spelling_and_everything_that_was_not_asked(working: Path) -> None:
    documents = written(working, OLD_CONFIG, OLD_DATA, OLD_LIBRARY)
    known = answers_in(documents)
    assert (known.steps, known.trigger, known.pictures) == (500, "zorb", "pictures")
    made = changed(documents, replace(known, steps=900, name="new"), working)
    assert made.config == {**OLD_CONFIG, "--max_train_steps": 900, "--tracker_run_name": "new"}
    assert list(made.config) == [*OLD_CONFIG, "--tracker_run_name"]
    assert made.data == OLD_DATA


def test_a_new_card_changes_the_asked_data_set_and_no_other(working: Path) -> None:
    documents = written(working, OLD_CONFIG, OLD_DATA, OLD_LIBRARY)
    made = changed(documents, replace(answers_in(documents), card="12"), working)
    assert made.data == [OLD_DATA[0], {**OLD_DATA[1], "resolution": 512, "resolution_type": "pixel_area"}, OLD_DATA[2]]
    assert made.config["--train_batch_size"] == 1
    assert made.config["--base_model_precision"] == "nf4-bnb"
    assert checked(made, working) == []


def test_prompts_that_stay_keep_their_name_and_settings(working: Path) -> None:
    documents = written(working, OLD_CONFIG, OLD_DATA, OLD_LIBRARY)
    made = changed(documents, replace(answers_in(documents), prompts=("a sad zorb", "a happy zorb")), working)
    assert made.library == {
        "second": OLD_LIBRARY["second"],
        "a-happy-zorb": "a happy zorb",
        "fourth": "kept",
    }


def test_a_single_prompt_moves_into_the_library_when_prompts_are_changed(working: Path) -> None:
    config = {"data_backend_config": "config/multidatabackend.json", "validation_prompt": "a zorb"}
    documents = written(working, config, OLD_DATA)
    known = answers_in(documents)
    assert known.prompts == ("a zorb",)
    made = changed(documents, replace(known, prompts=("a zorb", "two zorbs")), working)
    assert made.library == {"validation": "a zorb", "two-zorbs": "two zorbs"}
    assert "validation_prompt" not in made.config
    assert checked(made, working) == []


def test_a_wrapped_config_stays_wrapped(working: Path) -> None:
    config = {"_metadata": {"name": "x"}, "config": {"data_backend_config": "config/multidatabackend.json"}}
    documents = written(working, config, OLD_DATA)
    made = changed(documents, replace(answers_in(documents), steps=10), working)
    assert made.config["_metadata"] == {"name": "x"}
    assert made.config["config"]["max_train_steps"] == 10
    assert checked(made, working) == []


def test_a_picture_folder_is_added_beside_data_sets_of_another_kind(working: Path) -> None:
    other = {"id": "zorb", "type": "local", "disabled": True, "instance_data_dir": "old"}
    documents = written(working, {"data_backend_config": "config/multidatabackend.json"}, [other])
    made = changed(documents, ANSWERS, working)
    assert made.data[0] == other
    assert made.data[1]["id"] == "zorb-2"
    assert checked(made, working) == []


def test_an_older_name_of_an_option_is_changed_where_it_is(working: Path) -> None:
    config = {"data_backend_config": "config/multidatabackend.json", "hub_model_name": "me/old", "push_to_hub": "true"}
    documents = written(working, config, OLD_DATA)
    known = answers_in(documents)
    assert (known.publish, known.repository) == (True, "me/old")
    made = changed(documents, replace(known, repository="me/new"), working)
    assert made.config["hub_model_name"] == "me/new"
    assert "hub_model_id" not in made.config


def test_files_of_an_example_are_copied_and_never_changed(working: Path) -> None:
    documents = written(working, {"data_backend_config": "config/examples/demo/multidatabackend.json"})
    assert documents.data_path == working / "config" / "multidatabackend.json"
    made = changed(documents, replace(ANSWERS, captions="textfile", trigger=""), working)
    assert made.config["data_backend_config"] == "config/multidatabackend.json"
    assert made.data[0]["id"] == "zorb"


def test_leaving_a_flavour_takes_its_guidance_along(working: Path) -> None:
    made = changed(read(working / "config", working), replace(ANSWERS, flavour="fluxbooru"), working)
    assert made.config["validation_guidance_real"] == 6.0
    back = changed(replace(made, is_new=False), replace(answers_in(made), flavour="dev"), working)
    assert "validation_guidance_real" not in back.config
    assert back.config["model_flavour"] == "dev"


def test_a_config_that_counts_epochs_goes_on_counting_epochs(working: Path) -> None:
    documents = written(
        working, {"data_backend_config": "config/multidatabackend.json", "num_train_epochs": 3}, OLD_DATA
    )
    known = answers_in(documents)
    assert (known.epochs, known.steps) == (3, 0)
    made = changed(documents, replace(known, name="x"), working)
    assert "max_train_steps" not in made.config


def test_what_the_check_would_say_is_said_before_anything_is_written(working: Path) -> None:
    documents = written(working, {**OLD_CONFIG, "--lora_rnk": 3}, OLD_DATA, OLD_LIBRARY)
    before = (working / "config" / "config.json").read_bytes()
    (problem,) = checked(changed(documents, replace(answers_in(documents), steps=7), working), working)
    assert "lora_rank" in problem
    assert (working / "config" / "config.json").read_bytes() == before


def test_saving_leaves_the_three_files_and_nothing_else(working: Path) -> None:
    save(changed(read(working / "config", working), ANSWERS, working))
    names = sorted(path.name for path in (working / "config").iterdir())
    assert names == ["config.json", "multidatabackend.json", "user_prompt_library.json"]


def test_a_file_in_which_nothing_changes_is_not_rewritten(working: Path) -> None:
    documents = written(working, OLD_CONFIG, OLD_DATA, OLD_LIBRARY)
    data = working / "config" / "multidatabackend.json"
    before = data.read_bytes()
    save(changed(documents, replace(answers_in(documents), steps=7), working))
    assert data.read_bytes() == before
    assert json.loads((working / "config" / "config.json").read_text())["--max_train_steps"] == 7


def test_a_toml_config_is_not_shadowed_by_a_json_one(working: Path) -> None:
    (working / "config").mkdir()
    (working / "config" / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="by hand"):
        read(working / "config", working)


def test_a_broken_config_is_refused_with_its_place(working: Path) -> None:
    (working / "config").mkdir()
    (working / "config" / "config.json").write_text('{"a": 1,}')
    with pytest.raises(ConfigError, match="line 1"):
        read(working / "config", working)


def test_pictures_and_the_captions_beside_them_are_counted(working: Path) -> None:
    (working / "pictures" / "sub").mkdir()
    Image.new("RGB", (64, 64)).save(working / "pictures" / "sub" / "3.PNG")
    (working / "pictures" / "sub" / "3.txt").write_text("\ufeffa deep zorb \nanother line")
    (working / "pictures" / "notes.txt").write_text("no picture has this name")
    found = look(working / "pictures")
    assert (found.count, found.captioned, found.examples) == (4, 1, ("a deep zorb",))


def test_a_folder_without_pictures_is_refused_by_name(working: Path) -> None:
    (working / "empty").mkdir()
    assert refused("", {}) is not None
    assert "no folder" in (refused(str(working / "nowhere"), {}) or "")
    assert "no pictures" in (refused(str(working / "empty"), {}) or "")
    assert refused("{env:HERE}/pictures", {"HERE": str(working)}) is None


def test_suggestions_follow_the_pictures() -> None:
    assert suggested_steps(1, 1) == 1000
    assert suggested_steps(24, 1) == 2400
    assert suggested_steps(24, 2) == 1200
    assert suggested_steps(10_000, 1) == 4000
    assert all("zorb" in prompt for prompt in suggested_prompts("zorb", ["other"]))
    assert suggested_prompts("", ["a", "b", "c"]) == ("a", "b")
    assert slug("A photo, of: my *Zorb* at sea") == "a-photo-of-my"


def test_the_id_of_a_repository_has_at_most_one_slash() -> None:
    assert refused_repository("me/zorb-1.0") is None
    assert refused_repository("zorb") is None
    assert refused_repository("https://huggingface.co/me/zorb") is not None
