"""Whole ControlNet runs: from a config to what stock diffusers loads, and what is refused before it begins."""

import json
import os
import subprocess
import sys

import house
import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline
from PIL import Image
from safetensors.torch import load_file

from simpletuner.building import build_trainer
from simpletuner.errors import ConfigError
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

CONTROL = {"controlnet": True, "flux_lora_target": None}
"""The tests' own target is for the transformer."""
WHOLE = {**CONTROL, "model_type": "full", "learning_rate": 1e-3, "lora_rank": None}
CANNY = {"type": "canny", "conditioning_type": "controlnet"}
DRAWN = {
    "validation_disable": False,
    "validation_prompt": "a red circle",
    "validation_resolution": "64x64,128x64",
    "validation_num_inference_steps": 2,
}


def edges(pictures, **options):
    return [house.data_set("shapes", pictures, conditioning=CANNY, **options)]


def trainer(config):
    runtime = Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    return build_trainer(config, prepared, Checkpoints(config.run.output_dir, 0), runtime, Recorded()), prepared


def drawn(model, control, picture, *, edit=None):
    """What the stock pipeline draws beside a ControlNet."""
    pipeline = FluxControlNetPipeline.from_pretrained(model, controlnet=control, torch_dtype=torch.float32)
    return house.drawn(pipeline, control_image=picture)


def fresh(model):
    """What a new ControlNet of these small models is in stock diffusers."""
    pipeline = FluxControlNetPipeline.from_pretrained(model, controlnet=None, torch_dtype=torch.float32)
    shape = pipeline.transformer.config
    return FluxControlNetModel.from_transformer(
        pipeline.transformer,
        num_layers=min(4, shape.num_layers),
        num_single_layers=min(10, shape.num_single_layers),
        attention_head_dim=shape.attention_head_dim,
        num_attention_heads=shape.num_attention_heads,
    )


def pictures_to_follow(size=(64, 64)):
    plain = np.zeros((*size[::-1], 3), dtype=np.uint8)
    crossed = plain.copy()
    crossed[::4] = 255
    return Image.fromarray(plain), Image.fromarray(crossed)


def test_an_adapter_of_a_controlnet_follows_pictures_in_the_stock_pipeline(tmp_path, model, pictures):
    path = house.write_run(tmp_path, edges(pictures), **{**CONTROL, "flux_lora_target": "controlnet"}, **DRAWN)
    outcome, recorded = house.run(path, model)
    state = load_file(outcome.adapter)
    assert all(name.startswith("controlnet.controlnet_") for name in state)
    assert all(one.any() for one in state.values())
    control = fresh(model)
    plain, crossed = pictures_to_follow()
    assert np.array_equal(drawn(model, control, plain), drawn(model, control, crossed))
    control.load_lora_adapter(str(outcome.adapter), prefix="controlnet")
    assert not np.array_equal(drawn(model, control, plain), drawn(model, control, crossed))
    assert outcome.sheet is not None
    names = sorted(one.name for one in (tmp_path / "output" / "validation_images").glob("step_6_v*.png"))
    assert [name[-10:] for name in names] == ["_64x64.png", "128x64.png"]


def test_a_whole_controlnet_is_trained_and_loads_in_stock_diffusers(tmp_path, model, pictures):
    path = house.write_run(
        tmp_path, edges(pictures), **CONTROL, model_type="full", learning_rate=1e-3, lora_rank=None, **DRAWN
    )
    outcome, _ = house.run(path, model)
    assert outcome.adapter == tmp_path / "output" / "controlnet"
    control = FluxControlNetModel.from_pretrained(outcome.adapter)
    assert control.controlnet_x_embedder.weight.any()
    plain, crossed = pictures_to_follow()
    assert not np.array_equal(drawn(model, control, plain), drawn(model, control, crossed))


def test_the_example_of_simpletuner_runs_as_it_is_but_for_its_length_and_its_files(tmp_path, model, pictures, root):
    examples = root / "tests" / "appendix" / "config" / "examples"
    given = json.loads((examples / "flux.peft-controlnet-lora" / "config.json").read_text())
    (data, *_) = json.loads((examples / "multidatabackend-controlnet-128px.json").read_text())
    kept = ("id", "dataset_type", "instance_prompt", "crop", "resolution", "resolution_type", "repeats", "conditioning")
    local = house.data_set("", pictures, **{name: data[name] for name in kept}, caption_strategy="instanceprompt")
    short = {"max_train_steps": 2, "validation_num_inference_steps": 2, "checkpoint_step_interval": 1}
    changed = {"output_dir": str(tmp_path / "output"), "data_backend_config": "multidatabackend.json", **short}
    unset = dict.fromkeys(house.CONFIG.keys() - given.keys() - {"pretrained_model_name_or_path"})
    path = house.write_run(tmp_path, [local], **{**unset, **given, **changed, "validation_resolution": "64x64"})
    outcome, _ = house.run(path, model)
    state = load_file(outcome.adapter)
    assert {one.shape[0] for name, one in state.items() if name.endswith("lora_A.weight")} == {64}
    assert outcome.sheet is not None


def test_validation_follows_the_picture_of_the_first_image_in_the_size_that_is_drawn(tmp_path, model, pictures):
    made, prepared = trainer(house.resolved(house.write_run(tmp_path, edges(pictures), **CONTROL, **DRAWN), model))
    shown = made.validation.studio.references
    first = prepared.datasets[0].conditions[0].dataset
    expected, _ = prepared.latents.get(first.id, first.records.at(0))
    assert torch.allclose(shown(8, 8)["reference_0"][0], expected, atol=1e-5)
    assert shown(8, 16)["reference_0"].shape == (1, 16, 8, 16)


@pytest.mark.parametrize("options", [{}, {"model_type": "full", "learning_rate": 1e-3, "lora_rank": None}])
def test_a_controlnet_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, model, pictures, options):
    whole = house.write_run(tmp_path / "a", edges(pictures), **CONTROL, max_train_steps=4, **options)
    parted = house.write_run(
        tmp_path / "b", edges(pictures), **CONTROL, max_train_steps=2, checkpoint_step_interval=2, **options
    )
    expected = result_of(house.run(whole, model)[0].adapter)
    house.run(parted, model)
    found = result_of(house.run(parted, model, "max_train_steps=4", "resume_from_checkpoint=latest")[0].adapter)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], one) for name, one in expected.items())


def test_the_card_says_how_the_result_is_used(tmp_path, model, pictures):
    path = house.write_run(tmp_path / "a", edges(pictures), **CONTROL, max_train_steps=1)
    said = house.run(path, model)[0].card.read_text()
    assert "from_transformer(transformer, num_layers=4, num_single_layers=10).to(torch.bfloat16)" in said
    assert 'controlnet.load_lora_adapter("' in said and 'control_image=load_image("picture.png")' in said
    whole = house.write_run(tmp_path / "b", edges(pictures), **WHOLE, max_train_steps=1)
    assert 'subfolder="controlnet"' in house.run(whole, model)[0].card.read_text()


def result_of(path):
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: one for file in files for name, one in load_file(file).items()}


def test_training_goes_on_from_a_controlnet_that_was_trained_before(tmp_path, model, pictures):
    first = house.write_run(
        tmp_path / "a", edges(pictures), **CONTROL, model_type="full", lora_rank=None, max_train_steps=2
    )
    before = house.run(first, model)[0].adapter
    path = house.write_run(
        tmp_path / "b",
        edges(pictures),
        **{**CONTROL, "flux_lora_target": "all"},
        controlnet_model_name_or_path=str(before),
        lora_rank=2,
    )
    made, _ = trainer(house.resolved(path, model))
    state = made.denoiser.control.state_dict()
    for name, one in result_of(before).items():
        layer, _, kind = name.rpartition(".")
        assert torch.equal(state.get(f"{layer}.base_layer.{kind}", state.get(name)), one)
    assert house.run(path, model)[0].adapter.exists()


def test_the_picture_of_a_batch_is_that_of_its_image_also_when_both_are_mirrored(tmp_path, model, pictures):
    half = tmp_path / "half"
    half.mkdir()
    for path in pictures.glob("*.png"):
        picture = np.zeros((64, 64, 3), dtype=np.uint8)
        picture[:, :32] = 255
        Image.fromarray(picture).save(half / path.name)
    data = [
        house.data_set("shapes", pictures, flip_aug=True, train_batch_size=1, conditioning_data=["half"]),
        house.data_set("half", half, conditioning_type="controlnet", caption_strategy=None),
    ]
    made, prepared = trainer(house.resolved(house.write_run(tmp_path, data, **CONTROL), model))
    shapes = prepared.datasets[0]
    partner = shapes.conditions[0].dataset
    places = {key: place for place, key in enumerate(shapes.records.all_keys())}
    both = set()
    for number in range(12):
        batch = made.batches.load(number)
        place = places[batch.keys[0]]
        means = [prepared.latents.get("shapes", shapes.records.at(place, mirrored=one))[0] for one in (False, True)]
        stds = [prepared.latents.get("shapes", shapes.records.at(place, mirrored=one))[1] for one in (False, True)]
        far = [float(((batch.latents[0] - mean) / std).abs().mean()) for mean, std in zip(means, stds, strict=True)]
        is_mirrored = far[1] < far[0]
        both.add(is_mirrored)
        expected = prepared.latents.get(partner.id, partner.records.at(place, mirrored=is_mirrored))[0]
        assert torch.equal(batch.conditioning["reference_0"][0], expected)
    assert both == {False, True}


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"base_model_precision": "int8-quanto"},
        {"blocks_to_swap": 1},
    ],
)
def test_a_controlnet_trains_beside_a_base_that_saves_memory(tmp_path, model, pictures, options):
    path = house.write_run(tmp_path, edges(pictures), **CONTROL, max_train_steps=2, **options)
    assert all(one.isfinite().all() for one in load_file(house.run(path, model)[0].adapter).values())


def test_regularisation_data_of_a_controlnet_are_answered_by_the_base_alone(tmp_path, model, pictures):
    other = house.draw_pictures(tmp_path / "other", 4, seed=3)
    data = [*edges(pictures), house.data_set("other", other, conditioning=CANNY, is_regularisation_data=True)]
    path = house.write_run(tmp_path, data, **CONTROL, model_type="full", learning_rate=1e-3, lora_rank=None)
    made, _ = trainer(house.resolved(path, model))
    batch = next(one for one in map(made.batches.load, range(20)) if one.regularise)
    assert float(made.learning.loss(batch).detach()) == 0
    with torch.no_grad():
        for parameter in made.denoiser.control.parameters():
            parameter += 0.01
    assert float(made.learning.loss(batch).detach()) > 0


def test_another_adapter_is_worn_by_the_base_while_pictures_are_drawn(tmp_path, model, pictures):
    plain = house.write_run(tmp_path / "plain", [house.data_set("shapes", pictures)], max_train_steps=1)
    other = house.run(plain, model)[0].adapter
    options = {**CONTROL, **DRAWN, "max_train_steps": 1, "validation_adapter_path": str(other)}
    options["validation_adapter_mode"] = "comparison"
    house.run(house.write_run(tmp_path / "run", edges(pictures), **options), model)
    folder = tmp_path / "run" / "output" / "validation_images"
    worn = sorted(folder.glob("step_1_*pytorch_lora_weights*64x64*.png"))
    bare = [folder / one.name.replace("__pytorch_lora_weights", "") for one in worn]
    assert worn
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(worn, bare, strict=True))


def test_blocks_are_counted_as_without_a_controlnet(tmp_path, model, pictures):
    path = house.write_run(tmp_path, edges(pictures), **CONTROL)
    made, _ = trainer(house.resolved(path, model))
    assert list(made.denoiser.blocks) == list(made.denoiser.base.blocks)


@pytest.mark.parametrize("harm", ["torn", "empty", "file", "other"])
def test_a_controlnet_that_cannot_be_used_is_refused_before_anything_else(tmp_path, model, pictures, harm):
    folder = tmp_path / "own"
    fresh(model).save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    if harm == "torn":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == "empty":
        weights.unlink()
    elif harm == "other":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "_class_name": "ControlNetModel"}))
    source = weights if harm == "file" else folder
    said = {"torn": "ends too early", "empty": "own", "file": "is a single file; give the folder"}
    path = house.write_run(tmp_path / "run", edges(pictures), **WHOLE, controlnet_model_name_or_path=str(source))
    with pytest.raises(ConfigError) as caught:
        house.resolved(path, model)
    (problem,) = [line for line in str(caught.value).splitlines() if "controlnet_model_name_or_path: " in line]
    assert said.get(harm, "holds a ControlNetModel") in problem


def test_a_controlnet_of_the_hub_lies_at_the_top_of_its_repository(tmp_path, model):
    commit, place = "a" * 40, tmp_path / "home" / "hub" / "models--you--canny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    fresh(model).save_pretrained(place / "snapshots" / commit)
    program = (
        "import torch; from simpletuner.models.controlling import ControlNet; "
        "from simpletuner.models.family import Compute, Weights; from simpletuner.models.flux import controlnet; "
        f"weights = Weights({str(model)!r}, {str(model)!r}, 'transformer', {str(model)!r}); "
        "made = controlnet.load(weights, ControlNet('you/canny'), Compute(torch.device('cpu'), torch.float32)); "
        "print(type(made).__name__)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "FluxControlNetModel", done.stderr


REFUSED = [
    ({"data": "plain"}, 'has no pictures to follow; add "conditioning"'),
    ({"model_type": "full"}, "lora_rank: is about an adapter, and model_type full trains none"),
    ({"train_text_encoder": True}, "train_text_encoder"),
    ({"model_flavour": "kontext"}, "controlnet: there is no ControlNet for model_flavour 'kontext'"),
    ({"model_family": "chroma"}, "controlnet: there is no ControlNet for model_family chroma"),
    ({"model_flavour": "libreflux"}, "controlnet: a ControlNet sees the padding of prompts"),
    (
        {"lora_type": "lycoris", "lycoris_config": {"algo": "lokr"}},
        "lora_type: a ControlNet cannot be trained with lycoris",
    ),
    ({"lora_format": "kohya"}, "lora_format: 'kohya' has no names for the layers of a ControlNet"),
    (
        {"flux_lora_target": "all"},
        "flux_lora_target: a new ControlNet says nothing, and learns nothing, without its own",
    ),
    ({"peft_lora_target_modules": ["to_q"]}, "peft_lora_target_modules: a new ControlNet says nothing"),
    ({"use_dora": True}, "use_dora: a new ControlNet begins with weights of length 0"),
    ({"lora_init_type": "pissa"}, "lora_init_type: pissa takes its start from weights that are zero"),
    ({"controlnet_custom_config": {"num_layer": 2}}, "num_layer"),
    ({"controlnet_custom_config": "nowhere.json"}, "controlnet_custom_config: there is no file 'nowhere.json'"),
    (
        {"controlnet_custom_config": {"num_layers": 2}, "controlnet_model_name_or_path": "you/own"},
        "controlnet_custom_config: shapes a new ControlNet, and controlnet_model_name_or_path names one",
    ),
    ({"controlnet_model_name_or_path": "./nowhere"}, "controlnet_model_name_or_path: there is no folder './nowhere'"),
    ({"controlnet": False, "controlnet_custom_config": {"num_layers": 2}}, "is only read with controlnet: true"),
    (
        {"controlnet_custom_config": {"num_layers": 9}},
        "is 9, and the model of whose blocks it is a copy has 2",
    ),
    ({"train_single_block_indices": "0-9"}, "names block 9, and the network has 5 single blocks, counted from 0"),
    (
        {"controlnet": False, "flux_lora_target": "all+ffs+embedder+controlnet"},
        "'all+ffs+embedder+controlnet' is for controlnet: true; set that, or use all+ffs+embedder",
    ),
    ({"blocks_to_swap": 30}, "blocks_to_swap: 15 of the first kind of blocks cannot be swapped"),
    ({"controlnet": False}, "'controlnet' is for controlnet: true; set that, or leave these images out"),
    ({"controlnet": False, "flux_lora_target": "controlnet"}, "flux_lora_target: 'controlnet' is for controlnet: true"),
    (
        {"tread_config": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": 2}]}},
        "tread_config: leaves out tokens that a ControlNet adds to",
    ),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_does_not_go_with_a_controlnet_is_refused(tmp_path, model, pictures, options, said):
    options = dict(options)
    is_plain = options.pop("data", None) == "plain"
    data = [house.data_set("shapes", pictures)] if is_plain else edges(pictures)
    given = {"controlnet": True, "flux_lora_target": None, **options}
    path = house.write_run(tmp_path, data, **given)
    with pytest.raises(ConfigError) as caught:
        house.resolved(path, model)
    assert said in str(caught.value)


def test_layers_that_a_controlnet_does_not_have_are_told_before_any_work(tmp_path, model, pictures):
    named = "controlnet_blocks.0,controlnet_single_blocks.0,nothing"
    options = {**CONTROL, "flux_lora_target": None, "peft_lora_target_modules": named}
    path = house.write_run(tmp_path, edges(pictures), **options)
    with pytest.raises(ConfigError, match="peft_lora_target_modules: no layer of the network is called nothing"):
        house.run(path, model)
    assert not (tmp_path / "cache").exists()
