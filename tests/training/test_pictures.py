"""What validation can do besides drawing prompts from noise: seen in whole runs, and compared with stock diffusers."""

import json
import sys
from pathlib import Path

import house
import numpy as np
import pytest
import stock
import torch
from PIL import Image

from simpletuner.errors import ConfigError
from simpletuner.models.flux.denoiser import pack
from simpletuner.progress import ImagesSaved, Recorded
from simpletuner.results import Outcome

PROMPT = "a red circle on a white background"
OPTIONS = {
    "validation_disable": False,
    "validation_prompt": PROMPT,
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 3,
    "validation_guidance": 2.5,
    "validation_disable_unconditional": True,
    "validation_seed": 11,
    "max_train_steps": 2,
}


def ran(folder: Path, model: Path, pictures: Path, **options: object) -> tuple[Outcome, Recorded]:
    path = house.write_run(folder, [house.data_set("subject", pictures)], **{**OPTIONS, **options})
    return house.run(path, model)


def saved(recorded: Recorded) -> list[ImagesSaved]:
    return [event for event in recorded.events if isinstance(event, ImagesSaved)]


def test_each_prompt_is_drawn_with_settings_of_its_own(tmp_path: Path, model: Path, pictures: Path) -> None:
    library = tmp_path / "prompts.json"
    own = {"prompt": "a blue ring", "resolution": "128x64", "seed": 3, "steps": 2, "guidance": 1.5, "guidance_real": 2}
    library.write_text(json.dumps({"own": {**own, "negative_prompt": "red"}}))
    options = {"user_prompt_library": str(library), "validation_no_cfg_until_timestep": 0, "max_train_steps": 1}
    outcome, recorded = ran(tmp_path / "run", model, pictures, **options)
    path = Path(saved(recorded)[0].paths[0])
    guided = {"negative_prompt": "red", "true_cfg_scale": 2.0, "guidance_scale": 1.5}
    size = {"width": 128, "height": 64, "num_inference_steps": 2}
    expected = stock.drawn(stock.pipeline(model, outcome.adapter), "a blue ring", seed=3, **guided, **size)
    assert path.name == "step_1_own_0_128x64.png"
    assert stock.differ(path, expected) <= 1


def test_pictures_are_drawn_when_options_say(tmp_path: Path, model: Path, pictures: Path) -> None:
    """Ten pictures in batches of two make epochs of five steps."""
    options = {"validation_epoch_interval": 1, "max_train_steps": 16, "validation_num_inference_steps": 1}
    options |= {"validate_after_epoch": 2, "validation_on_startup": True, "validation_step_interval": 4}
    _, recorded = ran(tmp_path / "both", model, pictures, **options)
    assert [event.step for event in saved(recorded)] == [0, 10, 12, 15, 16]
    history = tmp_path / "both" / "output" / "validation_images" / "history_validation_0_64x64.png"
    assert Image.open(history).width > 6 * 256  # the base model, and five times after it
    path = house.write_run(tmp_path / "epochs", [house.data_set("subject", pictures)], **{**OPTIONS, **options})
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: one for key, one in config.items() if key != "validation_step_interval"}))
    _, recorded = house.run(path, model, "validate_after_epoch=0", "validate_after_step=6", "max_train_steps=11")
    assert [event.step for event in saved(recorded)] == [0, 10, 11]


def test_other_noise_and_other_files_when_they_are_asked_for(tmp_path: Path, model: Path, pictures: Path) -> None:
    options = {"learning_rate": 1e-30, "validation_step_interval": 1, "max_train_steps": 2}
    _, same = ran(tmp_path / "same", model, pictures, **options, validation_image_format="webp")
    first, second = saved(same)
    assert stock.differ(first.paths[0], second.paths[0]) == 0
    assert first.paths[0].endswith(".webp") and Image.open(first.paths[0]).format == "WEBP"
    assert PROMPT.encode() in Path(first.paths[0]).read_bytes()
    other = {**options, "validation_randomize": True, "validation_image_format": "jpeg"}
    _, random = ran(tmp_path / "random", model, pictures, **other, validation_image_quality=100)
    first, second = saved(random)
    assert stock.differ(first.paths[0], second.paths[0]) > 8
    assert first.paths[0].endswith(".jpg") and Image.open(first.paths[0]).format == "JPEG"
    _, again = ran(tmp_path / "again", model, pictures, **other, validation_image_quality=100)
    assert Path(saved(again)[1].paths[0]).read_bytes() == Path(second.paths[0]).read_bytes()
    card = (tmp_path / "again" / "output" / "README.md").read_text()
    assert "validation_images/step_2_validation_0_64x64.jpg" in card


def test_a_picture_is_changed_in_part_as_diffusers_changes_it(tmp_path: Path, model: Path, pictures: Path) -> None:
    """The same steps of the same scheduler, from the same latents with the same noise in them."""
    source = pictures / "003.png"
    entry = {"path": str(source), "prompt": PROMPT, "shortname": "changed", "strength": 0.5}
    options = {
        "validation_input": [entry],
        "validation_num_inference_steps": 4,
        "validation_stitch_input_location": "right",
    }
    outcome, recorded = ran(tmp_path / "run", model, pictures, **options)
    theirs = stock.pipeline(model, outcome.adapter)
    pixels = torch.from_numpy(stock.levels(source)).permute(2, 0, 1)[None].float() / 127.5 - 1
    config = theirs.vae.config
    with torch.no_grad():
        latents = (theirs.vae.encode(pixels).latent_dist.mean - config.shift_factor) * config.scaling_factor
    noise = torch.randn((1, 16, 8, 8), generator=torch.Generator().manual_seed(11))
    whole = theirs.scheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    mu = calculate_shift(
        16, *(whole.config[key] for key in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"))
    )
    whole.set_timesteps(sigmas=np.linspace(1.0, 1 / 4, 4), mu=mu)
    sigmas = whole.sigmas[2:]
    noisy = (1 - sigmas[0]) * latents + sigmas[0] * noise
    embeds, pooled, ids = theirs.encode_prompt(PROMPT, None, max_sequence_length=theirs.tokenizer_2.model_max_length)
    places = theirs._prepare_latent_image_ids(1, 4, 4, torch.device("cpu"), torch.float32)
    tokens = pack(noisy)
    for now, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        with torch.no_grad():
            (said,) = theirs.transformer(
                hidden_states=tokens,
                timestep=now[None],
                guidance=torch.tensor([2.5]) if theirs.transformer.config.guidance_embeds else None,
                pooled_projections=pooled,
                encoder_hidden_states=embeds,
                txt_ids=ids,
                img_ids=places,
                return_dict=False,
            )
        tokens = tokens + (following - now) * said
    unpacked = theirs._unpack_latents(tokens, 64, 64, 8) / config.scaling_factor + config.shift_factor
    with torch.no_grad():
        image = theirs.image_processor.postprocess(theirs.vae.decode(unpacked, return_dict=False)[0])[0]
    (event,) = saved(recorded)
    assert stock.differ(event.paths[0], image) <= 1
    assert Image.open(event.sheet).width > 3 * 256  # the base model, the step, and the start behind them


def test_images_of_the_data_sets_are_changed(tmp_path: Path, model: Path, pictures: Path) -> None:
    options = {
        "validation_using_datasets": True,
        "num_eval_images": 2,
        "max_train_steps": 1,
        "validation_guidance_real": 2,
    }
    _, recorded = ran(tmp_path / "run", model, pictures, **options)
    (event,) = saved(recorded)
    assert [Path(one).name for one in event.paths] == ["step_1_subject_0_0_64x64.png", "step_1_subject_1_1_64x64.png"]
    captions = [path.read_text() for path in pictures.glob("*.txt")]
    assert all(prompt in captions for prompt in event.prompts)


def test_other_adapters_are_worn_for_pictures_only(tmp_path: Path, model: Path, pictures: Path) -> None:
    other, _ = ran(tmp_path / "other", model, pictures, validation_disable=True, max_train_steps=3, seed=9)
    plain, before = ran(tmp_path / "plain", model, pictures)
    options = {"validation_adapter_path": str(other.adapter), "validation_adapter_mode": "comparison"}
    options |= {"validation_adapter_name": "old one", "validation_adapter_strength": 0.7}
    outcome, recorded = ran(tmp_path / "worn", model, pictures, **options)
    assert outcome.adapter.read_bytes() == plain.adapter.read_bytes()
    without, worn = saved(recorded)[0].paths
    assert Path(worn).name == "step_2_validation__old-one_0_64x64.png"
    assert stock.differ(without, saved(before)[0].paths[0]) == 0
    both = stock.pipeline(model)
    both.load_lora_weights(outcome.adapter.parent, weight_name=outcome.adapter.name, adapter_name="own")
    both.load_lora_weights(other.adapter.parent, weight_name=other.adapter.name, adapter_name="other")
    both.set_adapters(["own", "other"], [1.0, 0.7])
    image = stock.drawn(both, PROMPT, guidance_scale=2.5, width=64, height=64, num_inference_steps=3)
    assert stock.differ(worn, image) <= 1 and stock.differ(worn, without) > 1


def test_what_is_not_there_is_told_before_anything_is_done(tmp_path: Path, model: Path, pictures: Path) -> None:
    options = {
        "validation_input": [{"path": "nowhere.png", "prompt": "a cat"}],
        "validation_adapter_config": [{"label": "x", "paths": ["gone.safetensors"]}],
        "validation_adapter_path": "lost.safetensors",
        "evaluation_type": "clip",
        "pretrained_evaluation_model_name_or_path": "./no/clip",
        "validation_preview": True,
        "validation_preview_model": "./no/taef1",
        "validation_using_datasets": True,
        "validation_guidance_skip_layers": "1,2",
        "validation_guidance_skip_layers_start": 0.5,
    }
    with pytest.raises(ConfigError) as error:
        ran(tmp_path / "run", model, pictures, **options)
    assert [str(problem) for problem in error.value.problems] == [
        "validation_adapter_config: there is no adapter 'gone.safetensors'; check the path",
        "pretrained_evaluation_model_name_or_path: there is no folder './no/clip'; give a folder, or an id on the Hub",
        "validation_preview_model: there is no folder './no/taef1'; give a folder, or an id on the Hub",
        "validation_adapter_config: names adapters, and validation_adapter_path one; leave one out",
        "validation_input: names pictures to change, and validation_using_datasets too; leave one out",
        "validation_guidance_skip_layers_start: is 0.5; set it below the stop, 0.2",
    ]
    with pytest.raises(ConfigError, match="the picture 'nowhere.png' cannot be read"):
        ran(tmp_path / "second", model, pictures, validation_input=options["validation_input"])


def test_a_command_may_draw_instead(tmp_path: Path, model: Path, pictures: Path) -> None:
    script = tmp_path / "judge.py"
    script.write_text("import sys; open(sys.argv[1], 'a').write(' '.join(sys.argv[2:]) + chr(10))")
    told = tmp_path / "told.txt"
    command = f"{sys.executable} {script} {told} {{local_checkpoint_path}} {{global_step}} {{validation_prompt}}"
    options = {"validation_method": "external-script", "validation_external_script": command}
    options |= {"checkpoint_step_interval": 2, "validation_step_interval": 1, "max_train_steps": 3}
    outcome, recorded = ran(tmp_path / "run", model, pictures, **options)
    folder = outcome.folder.absolute()
    assert told.read_text().splitlines() == [
        f"{folder}/checkpoint-2 2 {PROMPT}",
        f"{folder}/checkpoint-3 3 {PROMPT}",
    ]
    assert "validation after step 1 is left out: there is no checkpoint yet" in recorded.texts()
    assert not saved(recorded)
    for wrong, said in (
        ({"validation_external_script": None}, "is missing, and validation_method is external-script; give it"),
        ({"validation_method": "simpletuner-local"}, "is only run with validation_method external-script; set that"),
        ({"validation_external_script": "nothing {x}"}, "there is no program 'nothing' that can be run"),
    ):
        with pytest.raises(ConfigError, match=said):
            ran(tmp_path / "wrong", model, pictures, **{**options, **wrong})
