"""FLUX.1 Fill: what the network is given, its loss and gradients, and whole runs from masks to a stock pipeline."""

import house
import numpy as np
import pytest
import tiny
import torch
from diffusers import FluxFillPipeline
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from simpletuner.building import build_trainer
from simpletuner.demo.pretrain import untrained_pipeline
from simpletuner.errors import ConfigError, ModelError
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.family import Compute
from simpletuner.models.flux import denoiser
from simpletuner.models.references import channels
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

DRAWN_MASKS = {"type": "random_masks", "conditioning_type": "mask", "params": {"min_coverage": 0.2}}


@pytest.fixture(scope="session")
def fill(tmp_path_factory):
    """An untrained Flux that takes 384 channels, in diffusers layout; nothing in it is zero."""
    folder = tmp_path_factory.mktemp("fill") / "model"
    torch.manual_seed(0)
    pipeline = untrained_pipeline()
    pipeline.vae.register_to_config(shift_factor=0.1, scaling_factor=0.5)
    pipeline.transformer = wide(pipeline.transformer)
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    kept = {name: part for name, part in pipeline.components.items() if part is not None}
    FluxFillPipeline(**kept).save_pretrained(folder)
    return folder


def wide(transformer):
    """A network of the same shape that takes 384 channels and answers with 64."""
    config = {name: one for name, one in transformer.config.items() if not name.startswith("_")}
    return type(transformer)(**{**config, "in_channels": 384, "out_channels": 64})


def trainer(config):
    runtime = Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    return build_trainer(config, prepared, Checkpoints(config.run.output_dir, 0), runtime, Recorded()), prepared


def masked(folder, pictures):
    """A data set with masks of a known form: the right half, and a little square."""
    folder.mkdir()
    for path in pictures.glob("*.png"):
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[:, 32:] = 255
        mask[5:9, 3:8] = 255
        mask[20:30, 3:8] = 120
        Image.fromarray(mask).save(folder / path.name)
    return [
        house.data_set("shapes", pictures, conditioning_data=["masks"]),
        house.data_set("masks", folder, conditioning_type="mask", caption_strategy=None),
    ]


def test_what_the_network_is_given_is_what_the_stock_pipeline_gives_it(tmp_path, fill, pictures):
    path = house.write_run(tmp_path, masked(tmp_path / "masks", pictures), model_flavour="fill")
    made, prepared = trainer(house.resolved(path, fill))
    batch = made.batches.load(0)
    assert batch.mask is None
    found = made.denoiser.given(batch.noise, batch.normal, batch.conditioning, batch.normal)["hidden_states"]
    pipeline = FluxFillPipeline.from_pretrained(fill)
    for row, key in zip(found, batch.keys, strict=True):
        picture = pipeline.image_processor.preprocess(Image.open(pictures / key).convert("RGB"), 64, 64)
        mask = pipeline.mask_processor.preprocess(Image.open(tmp_path / "masks" / key), 64, 64)
        with torch.no_grad():
            latents = pipeline.vae.encode(picture * (1 - mask)).latent_dist.mean
        covers, seen = pipeline.prepare_mask_latents(mask, latents, 1, 16, 1, 64, 64, torch.float32, "cpu", None)
        assert torch.equal(row[:, 128:], covers[0])
        assert torch.allclose(row[:, 64:128], seen[0], atol=1e-5)
        assert covers.mean() == pytest.approx(0.5 + 20 / 64 / 64)


def test_loss_and_all_gradients_are_those_of_an_independent_computation():
    random = torch.Generator().manual_seed(2)
    given = tiny.inputs()
    noisy, sigma = given["noisy"].double(), given["sigma"].double()
    conditioning = {name: one.double() for name, one in given["conditioning"].items()}
    seen = torch.randn(noisy.shape, dtype=torch.float64, generator=random)
    pixels = torch.rand(2, 1, noisy.shape[2] * 8, noisy.shape[3] * 8, dtype=torch.float64, generator=random).round()
    target = torch.randn(noisy.shape, dtype=torch.float64, generator=random)
    folded = torch.nn.functional.pixel_unshuffle(pixels, 8)
    results = []
    for is_ours in (True, False):
        module = wide_flux().double()
        lora.attach(module, LoraPlan(("to_q", "x_embedder", "proj_mlp"), 3, 2.0), torch.float64, 3)
        start = torch.Generator().manual_seed(5)
        for parameter in lora.trainable(module).values():
            parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=start) * 0.1
        guidance = torch.full((2,), 30.0, dtype=torch.float64)
        if is_ours:
            over = {"channels_0": seen, "channels_1": folded}
            answer = denoiser.FluxDenoiser(module).predict(noisy, sigma, {**conditioning, **over}, guidance)
        else:
            answer = by_hand(module, noisy, seen, pixels, sigma, conditioning, guidance)
        loss = mse_loss(answer, target)
        loss.backward()
        results.append((float(loss), {name: one.grad for name, one in lora.trainable(module).items()}))
    assert abs(results[0][0] - results[1][0]) < 1e-9
    for name, expected in results[1][1].items():
        assert expected.any()
        assert torch.allclose(results[0][1][name], expected, rtol=1e-9, atol=1e-9), name


def wide_flux():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return wide(tiny.flux()).requires_grad_(False)


def by_hand(module, noisy, seen, pixels, sigma, conditioning, guidance):
    """One token after the other: its 64 noisy numbers, 64 of what is seen, and 256 pixels of the mask."""
    batch, depth, height, width = noisy.shape
    tokens = torch.zeros(batch, height // 2 * width // 2, 384, dtype=torch.float64)
    for row in range(height // 2):
        for column in range(width // 2):
            here = slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)
            block = pixels[:, 0, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            # Eight by eight pixels under one latent are its channels; the four latents of a token stand innermost.
            under = torch.stack(
                [
                    block[:, 8 * dy + y, 8 * dx + x]
                    for y in range(8)
                    for x in range(8)
                    for dy in range(2)
                    for dx in range(2)
                ],
                dim=1,
            )
            parts = (noisy[:, :, *here].flatten(1), seen[:, :, *here].flatten(1), under)
            tokens[:, row * (width // 2) + column] = torch.cat(parts, dim=1)
    places = torch.tensor([(0, r, c) for r in range(height // 2) for c in range(width // 2)], dtype=torch.float64)
    words = conditioning["prompt_embeds"]
    out = module(
        hidden_states=tokens,
        timestep=sigma,
        guidance=guidance,
        pooled_projections=conditioning["pooled_prompt_embeds"],
        encoder_hidden_states=words,
        txt_ids=torch.zeros(words.shape[1], 3, dtype=torch.float64),
        img_ids=places,
        return_dict=False,
    )[0]
    found = torch.zeros_like(noisy)
    for number in range(out.shape[1]):
        row, column = divmod(number, width // 2)
        block = out[:, number].reshape(batch, depth, 2, 2)
        found[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = block
    return found


def test_an_adapter_for_fill_is_trained_on_drawn_masks_and_changes_what_the_stock_pipeline_fills(
    tmp_path, fill, pictures
):
    path = house.write_run(
        tmp_path,
        [house.data_set("shapes", pictures, conditioning=DRAWN_MASKS)],
        model_flavour="fill",
        flux_lora_target="all+ffs+embedder",
        validation_disable=False,
        validation_prompt="a red circle",
        validation_resolution="64x64,128x64",
        validation_num_inference_steps=2,
    )
    outcome, _ = house.run(path, fill)
    assert outcome.sheet is not None
    assert load_file(outcome.adapter)["transformer.x_embedder.lora_A.weight"].shape[1] == 384
    pipeline = FluxFillPipeline.from_pretrained(fill)
    given = {"image": Image.open(next(pictures.glob("*.png"))), "mask_image": Image.new("L", (64, 64), 255)}
    before = house.drawn(pipeline, **given)
    pipeline.load_lora_weights(outcome.adapter)
    assert not np.array_equal(before, house.drawn(pipeline, **given))


def test_what_is_drawn_in_validation_is_shown_the_holes_of_its_own_size(tmp_path, fill, pictures):
    path = house.write_run(
        tmp_path, masked(tmp_path / "masks", pictures), model_flavour="fill", validation_disable=False
    )
    made, prepared = trainer(house.resolved(path, fill))
    seen, holes = channels(made.validation.studio.references(8, 16))
    assert seen.shape == (1, 16, 8, 16)
    assert holes.shape == (1, 64, 8, 16)
    assert holes[..., :, 8:].all()
    assert not holes[..., 4:, :7].all()


def test_the_hole_of_a_mirrored_image_is_mirrored(tmp_path, fill, pictures):
    data = masked(tmp_path / "masks", pictures)
    data[0]["flip_aug"] = True
    made, prepared = trainer(house.resolved(house.write_run(tmp_path / "run", data, model_flavour="fill"), fill))
    (dataset,) = prepared.datasets
    places = {record.key: place for place, record in enumerate(dataset.records)}
    both = set()
    for batch in map(made.batches.load, range(10)):
        seen, holes = channels(batch.conditioning)
        for number, key in enumerate(batch.keys):
            place, other = places[key], dataset.conditions[0].dataset
            known = [prepared.latents.get(dataset.id, dataset.records.at(place, mirrored=one)) for one in (False, True)]
            far = [float(((batch.latents[number] - mean) / std).abs().mean()) for mean, std in known]
            is_mirrored = far[1] < far[0]
            both.add(is_mirrored)
            expected = prepared.latents.get(other.id, other.records.at(place, mirrored=is_mirrored))[0]
            assert torch.equal(seen[number], expected)
            assert bool(holes[number, :, :, 4:].all()) is not is_mirrored
            assert bool(holes[number, :, :, :4].all()) is is_mirrored
    assert both == {False, True}


def test_a_mask_that_changes_makes_its_picture_anew_and_leaves_all_others(tmp_path, fill, pictures):
    data = masked(tmp_path / "masks", pictures)
    path = house.write_run(tmp_path, data, model_flavour="fill", max_train_steps=1)
    house.run(path, fill)
    before = house.files_of(tmp_path / "cache" / "vae")
    name = sorted(one.name for one in pictures.glob("*.png"))[0]
    Image.new("L", (64, 64), 255).save(tmp_path / "masks" / name)
    house.run(path, fill)
    after = house.files_of(tmp_path / "cache" / "vae")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1


def test_the_loss_of_eval_images_is_measured_with_their_masks(tmp_path, fill, pictures):
    unseen = house.draw_pictures(tmp_path / "unseen", 3, seed=5)
    data = [
        house.data_set("shapes", pictures, conditioning=DRAWN_MASKS, flip_aug=True),
        house.data_set("unseen", unseen, dataset_type="eval", conditioning=DRAWN_MASKS),
    ]
    measured = {"eval_steps_interval": 1, "num_eval_images": 2, "eval_timesteps": 2}
    path = house.write_run(tmp_path, data, model_flavour="fill", max_train_steps=2, **measured)
    assert house.run(path, fill)[0].adapter.exists()


def test_what_does_not_go_with_fill_is_refused(tmp_path, fill, model, pictures):
    plain = [house.data_set("shapes", pictures)]
    with pytest.raises(ConfigError, match='has no masks that say what is to be filled; add "conditioning"'):
        house.resolved(house.write_run(tmp_path / "a", plain, model_flavour="fill"), fill)
    with pytest.raises(ConfigError, match="'fill' needs a transformer with 384 channels, and this one takes 64"):
        house.resolved(house.write_run(tmp_path / "b", plain, model_flavour="fill"), model)
    with pytest.raises(ConfigError, match="this transformer takes 384 channels, as FLUX.1 Fill does; set model_flav"):
        house.resolved(house.write_run(tmp_path / "c", plain, model_flavour="dev"), fill)
    holed = [house.data_set("shapes", pictures, conditioning=DRAWN_MASKS)]
    image = [{"path": str(next(pictures.glob("*.png"))), "prompt": "a red circle"}]
    shown = {"model_flavour": "fill", "validation_disable": False, "validation_resolution": "64x64"}
    with pytest.raises(ConfigError, match="validation_input: names a picture, and a model that fills holes needs a ma"):
        house.resolved(house.write_run(tmp_path / "d", holed, **shown, validation_input=image), fill)
    with pytest.raises(ConfigError, match="validation_using_datasets: is not for a model that looks at pictures"):
        house.resolved(house.write_run(tmp_path / "e", holed, **shown, validation_using_datasets=True), fill)
    with pytest.raises(ModelError, match="does not fit model_flavour: this transformer takes 384 channels"):
        denoiser.load(tiny.weights(fill), Compute(torch.device("cpu"), torch.float32))
