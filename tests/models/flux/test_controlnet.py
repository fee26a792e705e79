"""A ControlNet beside a frozen Flux: how it begins, what it adds, its loss and gradients, and what it is not."""

import json

import pytest
import tiny
import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from einops import rearrange
from torch.nn.functional import mse_loss

from simpletuner.errors import ModelError
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS, matches
from simpletuner.models.checkpointing import Recompute, enable
from simpletuner.models.controlling import ControlNet
from simpletuner.models.family import Compute
from simpletuner.models.flux.controlnet import beside, load
from simpletuner.models.flux.denoiser import FluxDenoiser

FLOAT = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny transformer on disk."""
    place = tmp_path_factory.mktemp("tiny")
    tiny.flux().save_pretrained(place / "transformer")
    return place


def disturbed(module, seed=5):
    """The same network with numbers in place of all zeros."""
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += torch.randn(parameter.shape, generator=random, dtype=parameter.dtype) * 0.05
    return module


def pair(*, guidance=(True, True), **shape):
    """A denoiser with a disturbed ControlNet of its own beside it, in float64."""
    base = tiny.flux(guidance=guidance[0])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = FluxControlNetModel.from_config({**base.config, "guidance_embeds": guidance[1], **shape})
    made = disturbed(made.requires_grad_(False))
    return beside(FluxDenoiser(base.double()), made.double())


def inputs(guidance=True):
    given = tiny.inputs()
    conditioning = {name: one.double() for name, one in given["conditioning"].items()}
    conditioning["reference_0"] = torch.randn(
        given["noisy"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    value = torch.full((2,), 2.5, dtype=torch.float64) if guidance else None
    return given["noisy"].double(), given["sigma"].double(), conditioning, value


def plainly(base, control, noisy, sigma, conditioning, guidance):
    """A steered Flux written out block by block with diffusers' blocks alone."""

    def tokens(latents):
        return rearrange(latents, "b c (h y) (w x) -> b (h w) (c y x)", y=2, x=2)

    height, width = noisy.shape[-2] // 2, noisy.shape[-1] // 2
    places = torch.tensor([(0, row, column) for row in range(height) for column in range(width)], dtype=torch.float64)
    words, pooled = conditioning["prompt_embeds"], conditioning["pooled_prompt_embeds"]
    places = torch.cat([torch.zeros(words.shape[1], 3, dtype=torch.float64), places])

    def begun(module, image):
        told = [guidance * 1000] if module.config.guidance_embeds else []
        time = module.time_text_embed(sigma * 1000, *told, pooled)
        return image, module.context_embedder(words), time, module.pos_embed(places)

    def run(module, image, added):
        image, text, time, rotary = begun(module, image)
        double, single = [], []
        for number, block in enumerate(module.transformer_blocks):
            text, image = block(image, text, time, rotary)
            double.append(image)
            image = image + added("double", number) if added else image
        for number, block in enumerate(module.single_transformer_blocks):
            text, image = block(image, text, time, rotary)
            single.append(image)
            image = image + added("single", number) if added else image
        return image, time, double, single

    start = control.x_embedder(tokens(noisy)) + control.controlnet_x_embedder(tokens(conditioning["reference_0"]))
    _, _, double, single = run(control, start, None)
    said = {
        "double": [layer(one) for layer, one in zip(control.controlnet_blocks, double, strict=True)],
        "single": [layer(one) for layer, one in zip(control.controlnet_single_blocks, single, strict=True)],
    }
    counts = {"double": len(base.transformer_blocks), "single": len(base.single_transformer_blocks)}

    def added(kind, number):
        """Each output of the ControlNet is for as many blocks as come on it, rounded up."""
        if not said[kind]:
            return 0
        return said[kind][number // -(-counts[kind] // len(said[kind]))]

    image, time, _, _ = run(base, base.x_embedder(tokens(noisy)), added)
    out = base.proj_out(base.norm_out(image, time))
    return rearrange(out, "b (h w) (c y x) -> b c (h y) (w x)", h=height, w=width, y=2, x=2)


def test_a_new_controlnet_begins_as_diffusers_makes_one(folder):
    ours = load(tiny.weights(folder), ControlNet(double_blocks=2, single_blocks=3), FLOAT)
    theirs = FluxControlNetModel.from_transformer(
        FluxTransformer2DModel.from_pretrained(folder / "transformer"),
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
    )
    state = ours.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], one) for name, one in theirs.state_dict().items())
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_a_new_controlnet_has_the_usual_size_or_that_of_a_smaller_transformer(folder):
    usual = load(tiny.weights(folder), ControlNet(), FLOAT)
    assert (usual.config.num_layers, usual.config.num_single_layers) == (3, 5)
    with pytest.raises(ModelError, match="num_layers is 4, but the transformer has 3; lower it"):
        load(tiny.weights(folder), ControlNet(double_blocks=4), FLOAT)


def test_a_new_controlnet_changes_nothing(folder):
    base = FluxDenoiser(tiny.flux())
    steered = beside(base, load(tiny.weights(folder), ControlNet(), FLOAT))
    given = tiny.inputs()
    picture = {"reference_0": torch.randn(given["noisy"].shape)}
    with torch.no_grad():
        alone = base.predict(**given)
        assert torch.equal(steered.predict(**{**given, "conditioning": {**given["conditioning"], **picture}}), alone)


def test_an_own_controlnet_is_loaded_from_its_folder_or_the_one_around_it(folder, tmp_path):
    made = disturbed(load(tiny.weights(folder), ControlNet(double_blocks=1, single_blocks=2), FLOAT))
    made.save_pretrained(tmp_path / "run" / "controlnet")
    for place in (tmp_path / "run", tmp_path / "run" / "controlnet"):
        found = load(tiny.weights(folder), ControlNet(source=str(place)), FLOAT).state_dict()
        assert all(torch.equal(found[name], one) for name, one in made.state_dict().items())


def test_controlnets_for_other_kinds_of_pictures_are_refused(folder, tmp_path):
    made = load(tiny.weights(folder), ControlNet(double_blocks=1, single_blocks=0), FLOAT)
    made.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_mode": 4}))
    with pytest.raises(ModelError, match="it is for several kinds of pictures, and so cannot be trained here"):
        load(tiny.weights(folder), ControlNet(source=str(tmp_path)), FLOAT)


def test_a_controlnet_that_cannot_be_fetched_is_told_with_its_option(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="or let controlnet_model_name_or_path name what is on this machine"):
        load(tiny.weights(folder), ControlNet(source="you/controlnet"), FLOAT)


def test_the_blocks_of_a_controlnet_are_packed_as_those_of_its_base(folder):
    packed = []
    load(tiny.weights(folder), ControlNet(double_blocks=2, single_blocks=1), FLOAT, packed.append)
    assert [type(block).__name__ for block in packed] == [
        "FluxTransformerBlock",
        "FluxTransformerBlock",
        "FluxSingleTransformerBlock",
    ]


@pytest.mark.parametrize(
    ("shape", "guidance"),
    [
        ({"num_layers": 2, "num_single_layers": 3}, (True, True)),
        ({"num_layers": 3, "num_single_layers": 0}, (True, False)),
        ({"num_layers": 1, "num_single_layers": 5}, (False, True)),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_all_gradients_are_those_of_an_independent_computation(shape, guidance, checkpointing):
    losses, gradients = [], []
    for is_plain in (True, False):
        steered = pair(guidance=guidance, **shape)
        steered.control.requires_grad_(True)
        if checkpointing and not is_plain:
            enable(steered.blocks, Recompute())
        given = inputs(guidance=any(guidance))
        predicted = plainly(steered.base.module, steered.control, *given) if is_plain else steered.predict(*given)
        target = torch.randn(predicted.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        loss = mse_loss(predicted, target)
        loss.backward()
        losses.append(float(loss))
        gradients.append({name: one.grad for name, one in steered.control.named_parameters() if one.grad is not None})
    assert abs(losses[0] - losses[1]) < 1e-9
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 20
    for name, expected in gradients[0].items():
        assert torch.allclose(gradients[1][name], expected, rtol=1e-9, atol=1e-9), name


def test_gradients_of_an_adapter_on_a_controlnet_are_those_of_an_independent_computation():
    gradients = []
    for is_plain in (True, False):
        steered = pair(num_layers=2, num_single_layers=3)
        lora.attach(steered.control, LoraPlan(tuple(PRESETS["controlnet"]), 3, 2.0), torch.float64, 3)
        disturbed_adapter = lora.trainable(steered.control)
        random = torch.Generator().manual_seed(5)
        for parameter in disturbed_adapter.values():
            parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=random) * 0.1
        given = inputs()
        predicted = plainly(steered.base.module, steered.control, *given) if is_plain else steered.predict(*given)
        predicted.square().mean().backward()
        gradients.append({name: one.grad for name, one in disturbed_adapter.items()})
    assert len(gradients[0]) == 2 * (1 + 2 + 3)
    assert all(one is not None and one.any() for one in gradients[0].values())
    for name, expected in gradients[0].items():
        assert torch.allclose(gradients[1][name], expected, rtol=1e-9, atol=1e-9), name


def test_the_preset_takes_the_fifteen_layers_that_a_usual_controlnet_has_and_flux_has_not():
    usual = FluxControlNetModel(
        num_layers=4, num_single_layers=10, attention_head_dim=8, num_attention_heads=1, axes_dims_rope=(2, 2, 4)
    )
    chosen = [name for name in lora.linear_layers(usual) if any(name.endswith(one) for one in PRESETS["controlnet"])]
    assert chosen == [
        *(f"controlnet_blocks.{number}" for number in range(4)),
        *(f"controlnet_single_blocks.{number}" for number in range(10)),
        "controlnet_x_embedder",
    ]


def test_the_larger_preset_takes_the_blocks_and_the_embedder_of_a_controlnet_besides():
    with torch.device("meta"):
        usual = FluxControlNetModel(num_layers=4, num_single_layers=10)
    names, larger = list(lora.linear_layers(usual)), PRESETS["all+ffs+embedder+controlnet"]
    chosen = [name for name in names if matches(name, larger)]
    rest = [name for name in chosen if not matches(name, PRESETS["controlnet"])]
    assert len(chosen) - len(rest) == 15
    assert rest == [name for name in names if matches(name, PRESETS["all+ffs+embedder"])]
    assert len(rest) == 4 * 12 + 10 * 5 + 1


@pytest.mark.parametrize("guidance", [(True, False), (False, True), (False, False)])
def test_guidance_is_asked_for_where_either_network_takes_it(guidance):
    assert pair(guidance=guidance, num_layers=1, num_single_layers=1).uses_guidance is any(guidance)


def test_while_nothing_is_heard_of_a_controlnet_the_base_answers_alone():
    steered = pair(num_layers=2, num_single_layers=3)
    noisy, sigma, conditioning, guidance = inputs()
    plain = {name: one for name, one in conditioning.items() if name != "reference_0"}
    with torch.no_grad():
        alone = steered.base.predict(noisy, sigma, plain, guidance)
        assert not torch.allclose(steered.predict(noisy, sigma, conditioning, guidance), alone)
        with steered.uncontrolled():
            assert torch.equal(steered.predict(noisy, sigma, conditioning, guidance), alone)
        assert not torch.allclose(steered.predict(noisy, sigma, conditioning, guidance), alone)
