"""What was changed since a checkpoint is allowed, told or refused, as the options themselves say."""

import json

import house
import pytest

from simpletuner import resuming
from simpletuner.config import SECTIONS
from simpletuner.errors import CheckpointError
from simpletuner.schema import IfChanged, if_changed

OPTIONS = {name: section for section in SECTIONS.values() for name in section.model_fields}


@pytest.fixture
def data(pictures):
    return [house.data_set("subject", pictures, repeats=1)]


@pytest.fixture
def saved(tmp_path, model, data):
    """A config, and what a checkpoint holds that was made with it."""
    path = house.write_run(tmp_path / "run", data)
    folder = tmp_path / "run" / "output" / "checkpoint-3"
    folder.mkdir(parents=True)
    (folder / "simpletuner_config.json").write_text(house.resolved(path, model).dump())
    (folder / "training_state.json").write_text(json.dumps({"global_step": 3, "seed": 7}))
    return path, folder


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["max_train_steps=99", "output_dir=elsewhere", "gradient_checkpointing=true"], []),
        (["lora_format=kohya", "validation_disable=false", "checkpoints_total_limit=1"], []),
        (["learning_rate=0.5"], ["learning_rate was 0.01, is 0.5"]),
        (["train_batch_size=1"], ["train_batch_size was 2, is 1"]),
        (["flow_schedule_shift=1"], ["flow_schedule_shift was 3.0, is 1.0"]),
        (["base_model_precision=int8-quanto"], ["base_model_precision was 'no_change', is 'int8-quanto'"]),
    ],
)
def test_what_is_changed_is_told_when_it_changes_what_is_learned(saved, model, words, told):
    path, folder = saved
    said = list(resuming.notices(house.resolved(path, model, *words), folder))
    assert said == [f"the checkpoint was made with other options: {one}" for one in told]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lora_rank=8"], "lora_rank was 4, is 8"),
        (["flux_lora_target=all"], "flux_lora_target was 'all+ffs', is 'all'"),
        (["use_dora=true"], "use_dora was False, is True"),
        (["optimizer=adamw_bf16"], "optimizer was 'adamw', is 'adamw_bf16'"),
        (["seed=8"], "seed was 7, is 8"),
    ],
)
def test_what_cannot_go_on_is_refused_before_anything_is_loaded(saved, model, words, told):
    path, folder = saved
    with pytest.raises(CheckpointError) as refused:
        list(resuming.notices(house.resolved(path, model, *words, "learning_rate=0.5"), folder))
    lines = str(refused.value).splitlines()
    assert lines[1:-1] == [f"  {told}"]
    assert lines[-1].startswith("Set them back, or start anew with resume_from_checkpoint set to none")


def test_a_seed_that_the_config_leaves_open_is_that_of_the_checkpoint(saved, model):
    path, folder = saved
    assert list(resuming.notices(house.resolved(path, model, "seed=-1"), folder)) == []


def test_an_option_that_is_younger_than_the_checkpoint_had_its_default(saved, model):
    path, folder = saved
    kept = json.loads((folder / "simpletuner_config.json").read_text())
    for name in ("use_ema", "lora_dropout", "use_dora"):
        del kept[name]
    (folder / "simpletuner_config.json").write_text(json.dumps(kept))
    assert list(resuming.notices(house.resolved(path, model), folder)) == []
    with pytest.raises(CheckpointError, match="use_dora was False, is True"):
        list(resuming.notices(house.resolved(path, model, "use_dora=true"), folder))


def test_changes_of_the_data_file_are_told_by_data_set_and_option(saved, model, pictures):
    path, folder = saved
    changed = [house.data_set("subject", pictures, repeats=3), house.data_set("other", pictures)]
    (path.parent / "multidatabackend.json").write_text(json.dumps(changed))
    said = [one.rpartition("options: ")[2] for one in resuming.notices(house.resolved(path, model), folder)]
    assert said == ["data set 'other' was 'not there', is 'there'", "data set 'subject': repeats was 1, is 3"]


def test_without_a_checkpoint_nothing_is_compared(saved, model):
    assert list(resuming.notices(house.resolved(saved[0], model, "lora_rank=8"), None)) == []


@pytest.mark.parametrize(
    ("follows", "names"),
    [
        (IfChanged.REFUSED, ["model_type", "lora_type", "lora_rank", "single_dim", "rank_pattern", "optimizer"]),
        (IfChanged.TOLD, ["learning_rate", "lora_dropout", "ema_decay", "mixed_precision", "resolution", "loss_type"]),
        (IfChanged.FINE, ["max_train_steps", "report_to", "output_dir", "ema_device", "blocks_to_swap", "init_lora"]),
    ],
)
def test_options_say_themselves_what_follows(follows, names):
    assert {name: if_changed(OPTIONS[name], name) for name in names} == dict.fromkeys(names, follows)


def test_a_refused_start_leaves_the_folder_saying_what_its_weights_were_made_with(tmp_path, model, data):
    path = house.write_run(tmp_path / "run", data, max_train_steps=1)
    outcome, _ = house.run(path, model)
    before = house.files_of(outcome.folder)["simpletuner_config.json"]
    with pytest.raises(CheckpointError, match="lora_rank was 4, is 8"):
        house.run(path, model, "lora_rank=8", "max_train_steps=2")
    assert house.files_of(outcome.folder)["simpletuner_config.json"] == before
