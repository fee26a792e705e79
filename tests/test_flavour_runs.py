"""Whole runs with each flavour: from a config to an adapter, with what the flavour needs set by itself."""

import json

import house
import pytest
import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file

from simpletuner import plans
from simpletuner.building import build_trainer
from simpletuner.demo.pretrain import untrained_pipeline
from simpletuner.errors import ConfigError, DataError
from simpletuner.models.adapters.formats.files import encode
from simpletuner.models.adapters.formats.neutral import Lora, LowRank
from simpletuner.models.references import references
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.remarks import remarks
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

LAYER = "transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="session")
def schnell(tmp_path_factory):
    """An untrained Flux without guidance, in diffusers layout."""
    folder = tmp_path_factory.mktemp("schnell") / "model"
    torch.manual_seed(0)
    pipeline = untrained_pipeline()
    pipeline.vae.register_to_config(shift_factor=0.1, scaling_factor=0.5)
    pipeline.transformer = type(pipeline.transformer).from_config(
        {**pipeline.transformer.config, "guidance_embeds": False}
    )
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chroma(tmp_path_factory):
    """An untrained Chroma in diffusers layout, made of the same small parts."""
    folder = tmp_path_factory.mktemp("chroma") / "model"
    torch.manual_seed(0)
    flux = untrained_pipeline()
    flux.vae.register_to_config(shift_factor=0.1, scaling_factor=0.5)
    shape = flux.transformer.config
    kept = ("num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads", "joint_attention_dim")
    transformer = ChromaTransformer2DModel(
        **{name: shape[name] for name in kept},
        in_channels=shape["in_channels"],
        axes_dims_rope=shape["axes_dims_rope"],
        approximator_hidden_dim=16,
        approximator_layers=2,
    )
    ChromaPipeline(
        scheduler=flux.scheduler,
        vae=flux.vae,
        text_encoder=flux.text_encoder_2,
        tokenizer=flux.tokenizer_2,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def helper(tmp_path, schnell):
    """A helping adapter for one layer of the small schnell."""
    width = json.loads((schnell / "transformer" / "config.json").read_text())
    inner = width["num_attention_heads"] * width["attention_head_dim"]
    path = tmp_path / "helper.safetensors"
    layer = LowRank(torch.randn(2, inner), torch.randn(inner, 2), 2.0)
    path.write_bytes(encode(Lora({f"transformer.{LAYER}": layer}), "diffusers", {}))
    return path


def pairs(folder, pictures, *, kinds=("reference_strict",), **options):
    """A data set of pictures and, for each kind, another one of what they are made from."""
    entries, names = [], []
    for number, kind in enumerate(kinds):
        place = house.draw_pictures(folder / f"before-{number}", 10, seed=number + 1)
        names.append(f"before-{number}")
        entries.append(
            house.data_set(names[-1], place, dataset_type="conditioning", conditioning_type=kind, caption_strategy=None)
        )
    return [house.data_set("after", pictures, conditioning_data=names, **options), *entries]


def trainer(config):
    runtime = Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    folder = config.run.output_dir
    return build_trainer(config, prepared, Checkpoints(folder, 0), runtime, Recorded()), prepared


def test_schnell_trains_at_four_noise_levels_with_its_helper_which_is_not_saved(tmp_path, schnell, helper, pictures):
    path = house.write_run(
        tmp_path,
        [house.data_set("subject", pictures)],
        model_flavour="schnell",
        assistant_lora_path=str(helper),
        tokenizer_max_length=24,
    )
    config = house.resolved(path, schnell)
    assert config.objective.flux_fast_schedule
    assert config.validation.validation_num_inference_steps == 4
    made, _ = trainer(config)
    layer = made.denoiser.module.get_submodule(LAYER)
    assert any(name.endswith("assistant") for name, _ in layer.named_modules())
    levels = {float(level) for number in range(6) for level in made.learning.sigma(made.batches.load(number))}
    assert levels <= {1.0, 0.75, 0.5, 0.25}
    outcome, _ = house.run(path, schnell)
    assert all("assistant" not in name for name in load_file(outcome.adapter))


@pytest.mark.parametrize(
    ("options", "length"), [({"model_flavour": "schnell"}, 256), ({}, 24), ({"tokenizer_max_length": 40}, 40)]
)
def test_prompts_of_schnell_have_256_tokens(tmp_path, schnell, pictures, options, length):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **options)
    config = house.resolved(path, schnell)
    with plans.text_encoder(config, Runtime.start("no", 7))() as encode:
        (found,) = encode(["a red ring"])
    assert found["prompt_embeds"].shape[0] == found["prompt_mask"].shape[0] == length


def test_schnell_without_its_noise_levels_is_refused(tmp_path, schnell, pictures):
    path = house.write_run(
        tmp_path, [house.data_set("subject", pictures)], model_flavour="schnell", flux_fast_schedule=False
    )
    with pytest.raises(ConfigError, match="flux_fast_schedule: model_flavour 'schnell' is spoiled by training without"):
        house.resolved(path, schnell)


def test_libreflux_hides_padding_in_training_and_in_validation(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], model_flavour="libreflux")
    config = house.resolved(path, model)
    made, _ = trainer(config)
    assert made.denoiser.masks_prompt
    batch = made.batches.load(0)
    assert not batch.conditioning["prompt_mask"].all()
    hidden = ~batch.conditioning["prompt_mask"][:, :, None]
    before = made.learning.loss(batch)
    batch.conditioning["prompt_embeds"].masked_fill_(hidden, 9.0)
    assert torch.equal(made.learning.loss(batch), before)


def test_kontext_learns_from_pairs_and_its_adapter_changes_pictures_in_stock_diffusers(tmp_path, model, pictures):
    path = house.write_run(
        tmp_path,
        pairs(tmp_path, pictures),
        model_flavour="kontext",
        validation_disable=False,
        validation_prompt="a red circle",
        validation_resolution="64x64",
        validation_num_inference_steps=2,
    )
    outcome, _ = house.run(path, model)
    assert outcome.sheet is not None
    pipeline = FluxPipeline.from_pretrained(model)
    pipeline.load_lora_weights(outcome.adapter)


def test_the_loss_of_a_pair_is_that_of_an_independent_computation(tmp_path, model, pictures):
    entries = pairs(tmp_path, pictures, kinds=("reference_strict", "reference_strict"))
    path = house.write_run(
        tmp_path, entries, model_flavour="kontext", conditioning_multidataset_sampling="combined", lora_dropout=0
    )
    made, prepared = trainer(house.resolved(path, model))
    batch = made.batches.load(0)
    found = references(batch.conditioning)
    after = prepared.datasets[0]
    for condition, latents in zip(after.conditions, found, strict=True):
        by_key = {record.key: record for record in condition.dataset.records}
        for key, one in zip(batch.keys, latents, strict=True):
            mean, _ = prepared.latents.get(condition.dataset.id, by_key[key])
            assert torch.equal(one, mean)
    sigma = made.learning.sigma(batch)[:, None, None, None]
    noisy = (1 - sigma) * batch.latents + sigma * batch.noise
    prediction = made.denoiser.predict(noisy, sigma.flatten(), batch.conditioning, torch.ones(len(sigma)))
    expected = (prediction - (batch.noise - batch.latents)).square().mean()
    assert torch.allclose(made.learning.loss(batch), expected, rtol=1e-6)


def test_of_several_data_sets_of_references_one_is_drawn_for_each_image_and_always_the_same(tmp_path, model, pictures):
    entries = pairs(tmp_path, pictures, kinds=("reference_strict", "reference_strict"))
    path = house.write_run(tmp_path, entries, model_flavour="kontext", max_train_steps=20)
    made, prepared = trainer(house.resolved(path, model))
    used = set()
    for number in range(20):
        batch = made.batches.load(number)
        (latents,) = references(batch.conditioning)
        assert torch.equal(latents, references(made.batches.load(number).conditioning)[0])
        for condition in prepared.datasets[0].conditions:
            by_key = {record.key: record for record in condition.dataset.records}
            for key, one in zip(batch.keys, latents, strict=True):
                if torch.equal(one, prepared.latents.get(condition.dataset.id, by_key[key])[0]):
                    used.add(condition.dataset.id)
    assert used == {"before-0", "before-1"}


def test_regularisation_data_can_have_references(tmp_path, model, pictures):
    entries = pairs(tmp_path, pictures, is_regularisation_data=True)
    subject = house.draw_pictures(tmp_path / "subject", 4, seed=9)
    again = house.draw_pictures(tmp_path / "subject-before", 4, seed=8)
    entries += [
        house.data_set("subject", subject, conditioning_data=["subject-before"]),
        house.data_set("subject-before", again, dataset_type="conditioning", conditioning_type="reference_strict"),
    ]
    path = house.write_run(tmp_path, entries, model_flavour="kontext", max_train_steps=4)
    outcome, _ = house.run(path, model)
    assert outcome.adapter.exists()


def test_loose_references_of_different_sizes_are_no_batch(tmp_path, model, pictures):
    entries = pairs(tmp_path, pictures, kinds=("reference_loose",))
    house.draw_pictures(tmp_path / "before-0", 5, size=(128, 64), seed=3)
    path = house.write_run(tmp_path, entries, model_flavour="kontext", max_train_steps=3)
    with pytest.raises(DataError, match="references of one batch have different sizes. Set its train_batch_size to 1"):
        house.run(path, model)
    path = house.write_run(tmp_path, entries, model_flavour="kontext", max_train_steps=3, train_batch_size=1)
    assert house.run(path, model)[0].adapter.exists()


def test_the_loss_of_eval_images_is_measured_with_their_references(tmp_path, model, pictures):
    entries = pairs(tmp_path, pictures)
    unseen = house.draw_pictures(tmp_path / "unseen", 3, seed=5)
    before = house.draw_pictures(tmp_path / "unseen-before", 3, seed=6)
    entries += [
        house.data_set("unseen", unseen, dataset_type="eval", conditioning_data=["unseen-before"]),
        house.data_set("unseen-before", before, dataset_type="conditioning", conditioning_type="reference_strict"),
    ]
    measured = {"eval_steps_interval": 1, "num_eval_images": 1, "eval_timesteps": 2}
    path = house.write_run(tmp_path, entries, model_flavour="kontext", max_train_steps=2, **measured)
    assert house.run(path, model)[0].adapter.exists()


def test_kontext_without_pairs_and_pairs_without_kontext_are_refused(tmp_path, model, pictures):
    path = house.write_run(tmp_path / "a", [house.data_set("subject", pictures)], model_flavour="kontext")
    with pytest.raises(ConfigError, match="model_flavour: 'kontext' changes pictures, and no data set has any"):
        house.resolved(path, model)
    path = house.write_run(tmp_path / "b", pairs(tmp_path, pictures), model_flavour="dev")
    with pytest.raises(ConfigError, match="'reference_strict' is for model_flavour kontext; set that, or leave"):
        house.resolved(path, model)


def test_kontext_takes_pictures_that_others_follow_as_references(tmp_path, model, pictures):
    edges = {"type": "canny", "conditioning_type": "controlnet"}
    data = [house.data_set("after", pictures, conditioning=edges, flip_aug=True, train_batch_size=1)]
    made, prepared = trainer(house.resolved(house.write_run(tmp_path, data, model_flavour="kontext"), model))
    other = prepared.datasets[0].conditions[0].dataset.records
    places = {key: place for place, key in enumerate(other.all_keys())}
    seen = set()
    for number in range(12):
        batch = made.batches.load(number)
        place, (found,) = places[batch.keys[0]], references(batch.conditioning)
        both = [prepared.latents.get("after_conditioning_canny", other.at(place, mirrored=one))[0] for one in (0, 1)]
        seen |= {number for number, one in enumerate(both) if torch.equal(found[0], one)}
    assert seen == {0, 1}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_chroma_trains_and_its_adapter_loads_in_stock_diffusers(tmp_path, chroma, pictures, checkpointing):
    path = house.write_run(
        tmp_path,
        [house.data_set("subject", pictures)],
        model_family="chroma",
        gradient_checkpointing=checkpointing,
        validation_disable=False,
        validation_prompt="a red circle",
        validation_resolution="64x64",
        validation_num_inference_steps=3,
    )
    outcome, _ = house.run(path, chroma)
    assert outcome.sheet is not None
    pipeline = ChromaPipeline.from_pretrained(chroma)
    pipeline.load_lora_weights(outcome.adapter)
    names = {name.removesuffix(".lora_A.default_0.weight") for name, _ in pipeline.transformer.named_parameters()}
    assert LAYER in names


def test_what_chroma_draws_needs_no_clip(tmp_path, chroma, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], model_family="chroma")
    made, _ = trainer(house.resolved(path, chroma))
    batch = made.batches.load(0)
    assert set(batch.conditioning) == {"prompt_embeds", "prompt_mask"}
    hidden = ~batch.conditioning["prompt_mask"][:, :, None]
    before = made.learning.loss(batch)
    batch.conditioning["prompt_embeds"].masked_fill_(hidden, 9.0)
    assert torch.equal(made.learning.loss(batch), before)


def test_what_chroma_does_not_read_is_told(tmp_path, chroma, pictures):
    data = [house.data_set("subject", pictures)]
    given = {"text_encoder_2_precision": "int8-quanto", "flux_guidance_value": 3.0, "t5_padding": "zero"}
    told = list(remarks(house.resolved(house.write_run(tmp_path, data, model_family="chroma", **given), chroma)))
    said = "text_encoder_2_precision has no effect: Chroma has one text encoder, T5, and text_encoder_1_precision is fo"
    assert [one for one in told if one.startswith(said)]
    assert {one.split()[0] for one in told if "no effect: Chroma" in one} == set(given)
    plain = house.write_run(tmp_path, data, model_family="chroma")
    assert not [one for one in remarks(house.resolved(plain, chroma)) if "Chroma" in one]


@pytest.mark.parametrize(("name", "loads"), [("chroma", ChromaTransformer2DModel), ("schnell", FluxTransformer2DModel)])
def test_all_weights_of_other_models_are_trained_too(tmp_path, request, pictures, helper, name, loads):
    base = request.getfixturevalue(name)
    options = {"chroma": {"model_family": "chroma"}, "schnell": {"model_flavour": "schnell"}}[name]
    if name == "schnell":
        options |= {"assistant_lora_path": str(helper)}
    full = {"model_type": "full", "lora_rank": None, "flux_lora_target": None, "max_train_steps": 2}
    data = [house.data_set("subject", pictures)]
    path = house.write_run(tmp_path, data, tokenizer_max_length=24, **full, **options)
    outcome, _ = house.run(path, base)
    before, after = loads.from_pretrained(base / "transformer"), loads.from_pretrained(outcome.adapter)
    trained = [torch.equal(one, other) for one, other in zip(before.parameters(), after.parameters(), strict=True)]
    assert before.state_dict().keys() == after.state_dict().keys()
    assert not any(trained)
    house.run(path, base, "max_train_steps=3")  # goes on from its checkpoint
