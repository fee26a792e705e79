"""Model cards: what they say about using the weights works, and what they show lies beside them."""

import ast
import inspect
import re

import house
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers import FluxPipeline
from PIL import Image

from simpletuner.cli.push import command as push
from simpletuner.models.families import FAMILIES
from simpletuner.models.options import Model
from simpletuner.training.options import Validation
from simpletuner.training.prompts import usual
from simpletuner.training.publishing import card, contents
from simpletuner.training.publishing.made import made

DRAWS = {
    "validation_disable": False,
    "validation_prompt": "a red circle",
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 1,
    "validation_disable_unconditional": True,
    "max_train_steps": 1,
}


def ran(tmp_path, model, pictures, **options):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **{**DRAWS, **options})
    outcome, _ = house.run(path, model)
    return outcome.folder, outcome.card.read_text()


def code_of(text):
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def shown_in(text):
    return [one["output"]["url"] for one in yaml.safe_load(text.split("---")[1])["widget"]]


@pytest.mark.parametrize("view", ["ema_only", "comparison", "none"])
def test_pictures_on_the_card_are_in_the_folder_whatever_view_of_the_average_is_drawn(tmp_path, model, pictures, view):
    folder, text = ran(tmp_path, model, pictures, use_ema=True, ema_validation=view)
    assert [(folder / one).exists() for one in shown_in(text)] == [True]
    assert "folder `ema` holds the running average" in text
    assert "ema/pytorch_lora_weights.safetensors" in contents.of_result(folder, 1)


def test_a_card_shows_no_pictures_of_an_earlier_run_in_its_folder(tmp_path, model, pictures):
    ran(tmp_path, model, pictures)
    _, text = ran(tmp_path, model, pictures, validation_disable=True, max_train_steps=2)
    assert "widget" not in text and "before_and_after.png" not in text


def test_a_lora_is_loaded_by_the_name_of_its_file_as_there_are_others_of_checkpoints_and_averages():
    # Without a name, diffusers takes the first file of a repository, which is that of the oldest checkpoint.
    assert 'load_lora_weights("$repository", weight_name="pytorch_lora_weights.safetensors")' in made(Model()).usage


def test_the_way_to_use_a_lycoris_adapter_works(tmp_path, model, pictures):
    settings = '{"algo": "lokr", "linear_dim": 4, "linear_alpha": 1, "factor": 4, "multiplier": 1.0}'
    folder, text = ran(tmp_path, model, pictures, lora_type="lycoris", lycoris_config=settings)
    code = code_of(text).partition('pipeline.to("cuda")')[0].replace("path/to/the/base/model", str(model))
    weights = str(folder / "pytorch_lora_weights.safetensors")
    code = re.sub(r"hf_hub_download\(.*\)", repr(weights), code)
    known = {}
    exec(code, known)
    before = FluxPipeline.from_pretrained(model, torch_dtype=torch.bfloat16).transformer.state_dict()
    now = known["pipeline"].transformer.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, now[name])]
    assert len(changed) == len(known["network"].loras) > 10
    assert "A LyCORIS adapter" in text


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("kind", [{}, {"model_type": "full"}, {"lora_type": "lycoris"}])
def test_every_name_of_diffusers_on_a_card_is_one(family, kind):
    options = dict(kind)
    lora_type = options.pop("lora_type", "standard")
    usage = made(Model(model_family=family, **options), lora_type).usage
    import diffusers

    found = [node for node in ast.walk(ast.parse(usage)) if isinstance(node, ast.ImportFrom)]
    names = [one.name for node in found if node.module == "diffusers" for one in node.names]
    assert names and all(hasattr(diffusers, name) for name in names)
    assert all(family.capitalize() in name for name in names)


GUIDED = {"validation_guidance": 2.5, "validation_guidance_real": 1.5, "validation_negative_prompt": "a blue square"}


def test_what_a_card_says_draws_the_picture_that_it_shows(tmp_path, model, pictures):
    steps = {"validation_num_inference_steps": 3, "validation_seed": 5, "validation_no_cfg_until_timestep": 0}
    folder, text = ran(tmp_path, model, pictures, **GUIDED, **steps, tokenizer_max_length=64, learning_rate=1e-2)
    code = code_of(text).replace("path/to/the/base/model", str(model)).replace("your-name/simpletuner", str(folder))
    code = code.replace("torch.bfloat16", "torch.float32").replace('"cuda"', '"cpu"')
    known = {}
    exec(code.replace("image.save", "# "), known)
    (shown,) = shown_in(text)
    difference = np.asarray(known["image"]).astype(int) - np.asarray(Image.open(folder / shown).convert("RGB"))
    assert abs(difference).max() <= 1


KINDS = [{}, {"model_flavour": "kontext"}, {"model_flavour": "fill"}, {"control": True}, {"controlnet": True}]
KINDS += [{"model_family": "chroma"}, {"model_type": "full", "model_flavour": "schnell"}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_pipeline_of_a_card_knows_everything_that_it_is_given(kind):
    import diffusers

    model = Model(**kind)
    shot = usual(Validation(**GUIDED), "a red circle", 3)
    text = card.render(
        card.Card("", None, "me/zorb", {}, "flux", True, "", [], shot, 256, {}, {}, [], made=made(model))
    )
    called = [node for node in ast.walk(ast.parse(code_of(text))) if isinstance(node, ast.Call)]
    (drawn,) = [one for one in called if isinstance(one.func, ast.Name) and one.func.id == "pipeline"]
    (name,) = set(re.findall(r"\b\w+Pipeline\b", code_of(text)))
    known = inspect.signature(getattr(diffusers, name).__call__).parameters
    given = {one.arg: ast.unparse(one.value) for one in drawn.keywords}
    assert given.keys() <= known.keys() and given["max_sequence_length"] == "256"
    assert ("1.5" in given.values()) == ("negative_prompt" in known)


def test_a_card_names_an_owner_although_the_config_does_not():
    text = card.addressed("zorb")
    assert text == "your-name/zorb" and card.addressed("me/zorb") == "me/zorb"
    assert card.readdressed('load("your-name/zorb")', "zorb", "me/other") == 'load("me/other")'


def test_pushing_the_folder_of_a_run_that_failed_says_how_to_get_a_result(tmp_path):
    (tmp_path / "simpletuner_config.json").write_text("{}")
    answer = CliRunner().invoke(push, [str(tmp_path), "--to", "me/zorb"])
    message = str(answer.exception)
    assert "holds no result yet" in message and "goes on from the last checkpoint" in message


def test_halves_that_a_killed_writer_left_are_not_uploaded(tmp_path):
    for name in ("transformer/a.safetensors", "transformer/.0123456789abcdef.part", "ema/.transformer.partial/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list(contents.of_result(tmp_path, 1)) == ["transformer/a.safetensors"]
