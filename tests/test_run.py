"""A whole run: config file in, adapter out, nothing else touched."""

import json

import house
import pytest
from safetensors import safe_open

from simpletuner.progress import StageStarted, StepDone, TrainingStarted


def stages(recorded):
    return [event.stage for event in recorded.events if isinstance(event, StageStarted)]


def test_a_run_leaves_everything_a_person_needs(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], validation_disable=False, **DRAW)
    outcome, _ = house.run(path, model)
    assert outcome.steps == 6
    for file in (outcome.adapter, outcome.sheet, outcome.card, outcome.progress, *outcome.checkpoints):
        assert file.exists(), file
    config = json.loads((outcome.folder / "simpletuner_config.json").read_text())
    assert (config["lora_rank"], config["data_backends"][0]["id"]) == (4, "subject")
    with safe_open(outcome.adapter, "pt") as file:
        header = file.metadata()
    assert header["modelspec.architecture"] == "flux-1-dev/lora"
    assert header["global_step"] == "6"


def test_the_folder_with_pictures_is_not_touched(tmp_path, model):
    pictures = house.draw_pictures(tmp_path / "pictures", 5)
    before = house.files_of(pictures)
    house.run(house.write_run(tmp_path / "run", [house.data_set("subject", pictures)]), model)
    assert house.files_of(pictures) == before


def test_a_second_run_encodes_nothing_again(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)])
    assert {"text embeddings", "image latents"} <= set(stages(house.run(path, model)[1]))
    again = stages(house.run(path, model, f"output_dir={tmp_path}/second")[1])
    assert not {"text embeddings", "image latents"} & set(again)


def test_a_replaced_picture_a_new_caption_and_another_size_are_encoded_anew(tmp_path, model):
    pictures = house.draw_pictures(tmp_path / "pictures", 4)
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    house.run(path, model)

    def encoded(*words):
        events = house.run(path, model, "resume_from_checkpoint=none", *words)[1].events
        return {event.stage: event.total for event in events if isinstance(event, StageStarted)}

    (pictures / "000.png").write_bytes((pictures / "001.png").read_bytes())
    assert "image latents" not in encoded()  # the same picture under another name is known already
    house.draw_pictures(tmp_path / "other", 1, seed=99)
    (pictures / "000.png").write_bytes((tmp_path / "other" / "000.png").read_bytes())
    assert encoded()["image latents"] == 1
    (pictures / "000.txt").write_text("something quite new")
    assert encoded()["text embeddings"] == 1
    house.write_run(tmp_path / "run", [house.data_set("subject", pictures, resolution=128)])
    assert encoded()["image latents"] == 4


def test_the_same_seed_gives_the_same_adapter_byte_by_byte(tmp_path, model, pictures):
    data = [house.data_set("subject", pictures)]
    first, second, other = (
        house.run(house.write_run(tmp_path / name, data, seed=seed), model)[0].adapter.read_bytes()
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first == second != other


def test_epochs_and_accumulation_give_the_number_of_steps(tmp_path, model, pictures):
    options = {"max_train_steps": 0, "num_train_epochs": 2, "gradient_accumulation_steps": 2}
    path = house.write_run(tmp_path, [house.data_set("subject", pictures, repeats=1)], **options)
    _, recorded = house.run(path, model)
    (started,) = [event for event in recorded.events if isinstance(event, TrainingStarted)]
    assert (started.total_steps, started.epochs) == (10, 2)  # 10 pictures twice in batches of 2, two batches a step
    assert [event.epoch for event in recorded.events if isinstance(event, StepDone)] == [1] * 5 + [2] * 5


def test_two_data_sets_keep_their_caches_where_their_entries_say(tmp_path, model, pictures):
    data = [
        house.data_set("one", pictures, cache_dir_vae=str(tmp_path / "latents-one"), text_embeds="texts-two"),
        house.data_set("two", house.draw_pictures(tmp_path / "more", 3, seed=4)),
        {"id": "texts", "dataset_type": "text_embeds", "default": True, "cache_dir": str(tmp_path / "texts")},
        {"id": "texts-two", "dataset_type": "text_embeds", "cache_dir": str(tmp_path / "texts-two")},
    ]
    house.run(house.write_run(tmp_path / "run", data), model)
    counts = {
        name: len(list((tmp_path / name).rglob("*.safetensors")))
        for name in ("latents-one", "texts", "texts-two", "run/cache/vae")
    }
    assert counts["latents-one"] == 10 and counts["run/cache/vae"] == 3
    assert counts["texts-two"] > 0 and counts["texts"] > 0


def test_packed_bases_train_on_a_processor(tmp_path, model, pictures):
    losses = {}
    for precision in ("no_change", "int8-quanto", "nf4-bnb"):
        for mixed in ("no", "bf16"):
            options = {"base_model_precision": precision, "mixed_precision": mixed, "gradient_checkpointing": True}
            options |= {"max_train_steps": 3, "text_encoder_2_precision": "int8-quanto", "learning_rate": 1e-3}
            path = house.write_run(tmp_path / f"{precision}-{mixed}", [house.data_set("subject", pictures)], **options)
            events = house.run(path, model)[1].events
            losses[precision, mixed] = [event.loss for event in events if isinstance(event, StepDone)]
    exact = losses["no_change", "no"]
    assert all(found == pytest.approx(exact, rel=0.01) for found in losses.values())


def test_options_of_the_command_line_act(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)])
    _, recorded = house.run(path, model, "--max_train_steps", "2", "learning_rate=0.5", "--lr_scheduler=constant")
    done = [event for event in recorded.events if isinstance(event, StepDone)]
    assert [event.learning_rate for event in done] == [0.5, 0.5]


DRAW = {
    "validation_prompt": "a red circle",
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 1,
    "validation_disable_unconditional": True,
}
