"""Models that see a picture to follow as further channels: from a plain Flux to the stock control pipeline."""

import house
import numpy as np
import pytest
import tiny
import torch
from diffusers import FluxControlPipeline, FluxTransformer2DModel
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from simpletuner.building import build_trainer
from simpletuner.errors import ConfigError
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.family import Compute
from simpletuner.models.flux import denoiser, inputs
from simpletuner.models.references import channels
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

CANNY = {"type": "canny", "conditioning_type": "controlnet"}
FLOAT = Compute(torch.device("cpu"), torch.float32)


def edges(pictures, **options):
    return [house.data_set("shapes", pictures, conditioning=CANNY, **options)]


def follows(pipeline):
    """Whether what the stock pipeline draws depends on the picture."""
    plain = np.zeros((64, 64, 3), dtype=np.uint8)
    crossed = plain.copy()
    crossed[::4] = 255
    images = [house.drawn(pipeline, control_image=Image.fromarray(one)) for one in (plain, crossed)]
    return not np.array_equal(*images)


def test_a_widened_model_begins_as_the_plain_one(tmp_path):
    tiny.flux().save_pretrained(tmp_path / "transformer")
    wide = denoiser.load(tiny.weights(tmp_path), FLOAT, follows=True)
    given = tiny.inputs()
    picture = {"channels_0": torch.randn(given["noisy"].shape)}
    with torch.no_grad():
        found = wide.predict(**{**given, "conditioning": {**given["conditioning"], **picture}})
        assert torch.allclose(found, tiny.denoiser().predict(**given), atol=1e-6)
    assert (wide.module.config.in_channels, wide.module.config.out_channels) == (128, 64)


def test_loss_and_all_gradients_are_those_of_an_independent_computation():
    given = tiny.inputs()
    noisy, sigma = given["noisy"].double(), given["sigma"].double()
    conditioning = {name: one.double() for name, one in given["conditioning"].items()}
    random = torch.Generator().manual_seed(2)
    picture, target = (torch.randn(noisy.shape, dtype=torch.float64, generator=random) for _ in range(2))
    results = []
    for is_ours in (True, False):
        module = tiny.flux().double()
        inputs.widen(module)
        lora.attach(module, LoraPlan(("to_q", "x_embedder"), 3, 2.0), torch.float64, 3)
        start = torch.Generator().manual_seed(5)
        for parameter in lora.trainable(module).values():
            parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=start) * 0.1
        guidance = torch.full((2,), 2.5, dtype=torch.float64)
        if is_ours:
            over = {**conditioning, "channels_0": picture}
            answer = denoiser.FluxDenoiser(module).predict(noisy, sigma, over, guidance)
        else:
            answer = by_hand(module, noisy, picture, sigma, conditioning, guidance)
        loss = mse_loss(answer, target)
        loss.backward()
        results.append((float(loss), {name: one.grad for name, one in lora.trainable(module).items()}))
    assert abs(results[0][0] - results[1][0]) < 1e-9
    for name, expected in results[1][1].items():
        assert expected.any()
        assert torch.allclose(results[0][1][name], expected, rtol=1e-9, atol=1e-9), name


def by_hand(module, noisy, picture, sigma, conditioning, guidance):
    """As the stock control pipeline calls the network."""
    batch, depth, height, width = noisy.shape
    parts = [
        FluxControlPipeline._pack_latents(one.contiguous(), batch, depth, height, width) for one in (noisy, picture)
    ]
    words = conditioning["prompt_embeds"]
    out = module(
        hidden_states=torch.cat(parts, dim=2),
        timestep=sigma,
        guidance=guidance,
        pooled_projections=conditioning["pooled_prompt_embeds"],
        encoder_hidden_states=words,
        txt_ids=torch.zeros(words.shape[1], 3, dtype=torch.float64),
        img_ids=FluxControlPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float64),
        return_dict=False,
    )[0]
    return rearrange(out, "b (h w) (c y x) -> b c (h y) (w x)", h=height // 2, w=width // 2, y=2, x=2)


def test_an_adapter_that_follows_pictures_widens_the_stock_pipeline_by_itself(tmp_path, model, pictures):
    path = house.write_run(
        tmp_path,
        edges(pictures, flip_aug=True),
        control=True,
        flux_lora_target="all",
        validation_disable=False,
        validation_prompt="a red circle",
        validation_resolution="64x64,128x64",
        validation_num_inference_steps=2,
    )
    outcome, _ = house.run(path, model)
    assert outcome.sheet is not None
    layer = load_file(outcome.adapter)["transformer.x_embedder.lora_A.weight"]
    assert layer.shape == (4, 128)
    pipeline = FluxControlPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.load_lora_weights(outcome.adapter)
    assert pipeline.transformer.config.in_channels == 128
    assert follows(pipeline)


def test_a_whole_model_that_follows_pictures_loads_in_the_stock_pipeline_and_can_be_trained_on(
    tmp_path, model, pictures
):
    options = {"control": True, "lora_rank": None, "flux_lora_target": None, "max_train_steps": 2}
    first = house.write_run(tmp_path / "a", edges(pictures), model_type="full", learning_rate=1e-3, **options)
    place = house.run(first, model)[0].adapter
    transformer = FluxTransformer2DModel.from_pretrained(place, torch_dtype=torch.float32)
    assert transformer.config.in_channels == 128
    assert transformer.x_embedder.weight[:, 64:].any()
    pipeline = FluxControlPipeline.from_pretrained(model, transformer=transformer, torch_dtype=torch.float32)
    assert follows(pipeline)
    own = {"pretrained_transformer_model_name_or_path": str(place)}
    again = house.write_run(tmp_path / "b", edges(pictures), **own, **options)
    assert house.run(again, model)[0].adapter.exists()
    refused = house.write_run(tmp_path / "c", [house.data_set("shapes", pictures)], **own, max_train_steps=1)
    with pytest.raises(ConfigError, match="takes 128 channels, as FLUX.1 Canny and Depth do; set control to true"):
        house.resolved(refused, model)


def test_training_goes_on_from_an_adapter_that_follows_pictures(tmp_path, model, pictures):
    first = house.run(house.write_run(tmp_path / "a", edges(pictures), control=True, max_train_steps=2), model)[0]
    again = {"control": True, "max_train_steps": 1, "init_lora": str(first.adapter), "learning_rate": 1e-9}
    second = house.run(house.write_run(tmp_path / "b", edges(pictures), **again), model)[0]
    before, after = load_file(first.adapter), load_file(second.adapter)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)


def test_a_picture_that_validation_names_is_followed_instead_of_that_of_the_first_image(tmp_path, model, pictures):
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 64), (255, 0, 0)).save(other)
    shown = {"validation_input": [{"path": str(other), "prompt": "a red circle", "shortname": "other"}]}
    options = {"validation_disable": False, "validation_resolution": "64x64", **shown}
    path = house.write_run(tmp_path / "run", edges(pictures), control=True, **options)
    config = house.resolved(path, model)
    runtime = Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    made = build_trainer(config, prepared, Checkpoints(config.run.output_dir, 0), runtime, Recorded())
    asked = []

    class Asked:
        """Notes what the network is given."""

        module, uses_guidance = made.denoiser.module, made.denoiser.uses_guidance

        def predict(self, noisy, sigma, conditioning, guidance):
            asked.append((float(sigma[0]), channels(conditioning)[0]))
            return made.denoiser.predict(noisy, sigma, conditioning, guidance)

    studio, (shot,) = made.validation.studio, prepared.shots
    (start,) = studio.starts([shot]).values()
    studio.draw(Asked(), [shot], "drawing")
    assert asked[0][0] == 1.0  # from pure noise: the picture is followed, not changed
    assert all(torch.equal(one.cpu(), start) for _, one in asked)


def test_the_channels_of_a_batch_are_the_picture_of_its_image(tmp_path, model, pictures):
    config = house.resolved(house.write_run(tmp_path, edges(pictures), control=True), model)
    runtime = Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    made = build_trainer(config, prepared, Checkpoints(config.run.output_dir, 0), runtime, Recorded())
    batch = made.batches.load(0)
    (found,) = channels(batch.conditioning)
    other = prepared.datasets[0].conditions[0].dataset
    by_key = {record.key: record for record in other.records}
    for key, one in zip(batch.keys, found, strict=True):
        assert torch.equal(one, prepared.latents.get(other.id, by_key[key])[0])


REFUSED = [
    ({"data": "plain"}, 'has no pictures to follow; add "conditioning"'),
    ({"data": "two"}, "has 2 pictures to follow for each image, and one is followed; leave one"),
    ({"controlnet": True, "flux_lora_target": None}, "control: trains the model itself, and controlnet a network"),
    ({"model_flavour": "kontext"}, "control: model_flavour 'kontext' cannot be given a picture to follow"),
    ({"model_family": "chroma"}, "control: model_family chroma cannot be given a picture to follow"),
    (
        {"lora_type": "lycoris", "lycoris_config": {"algo": "lokr"}},
        "lora_type: lycoris leaves out the layer that takes",
    ),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_does_not_go_with_following_is_refused(tmp_path, model, pictures, options, said):
    options = dict(options)
    kind = options.pop("data", "")
    blurred = {"type": "jpeg", "conditioning_type": "controlnet"}
    wanted = {"plain": None, "two": [CANNY, blurred]}.get(kind, CANNY)
    data = [house.data_set("shapes", pictures, **({"conditioning": wanted} if wanted else {}))]
    path = house.write_run(tmp_path, data, control=True, **options)
    with pytest.raises(ConfigError) as caught:
        house.resolved(path, model)
    assert said in str(caught.value)
