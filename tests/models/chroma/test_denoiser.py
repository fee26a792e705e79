"""Chroma predicts what plain diffusers predicts for prompts cut to the tokens that count, in float64."""

import math

import pytest
import tiny
import torch
from diffusers import ChromaTransformer2DModel
from diffusers.pipelines.chroma.pipeline_chroma import ChromaPipeline
from torch.nn.functional import mse_loss

from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import Lora, LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.checkpointing import Recompute, enable
from simpletuner.models.chroma.denoiser import ChromaDenoiser, hide_padding
from simpletuner.models.tread import Route, TokenRouter

SEEN = (4, 6)
"""Tokens of the two prompts that count: their words and one of padding."""


def transformer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ChromaTransformer2DModel(
            num_layers=3,
            num_single_layers=5,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.WIDTH,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=64,
            approximator_hidden_dim=16,
            approximator_layers=2,
        )
    module.requires_grad_(False)
    module.double()
    lora.attach(module, LoraPlan(tuple(PRESETS["all+ffs"]), 3, 2.0), torch.float64, 3)
    random = torch.Generator().manual_seed(5)
    for parameter in lora.trainable(module).values():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=random) * 0.1
    return module


def denoiser():
    module = transformer()
    hide_padding(module)
    return ChromaDenoiser(module)


def inputs():
    given = tiny.inputs()
    embeds = given["conditioning"]["prompt_embeds"].double()
    mask = torch.arange(tiny.TEXT)[None] < torch.tensor(SEEN)[:, None]
    conditioning = {"prompt_embeds": embeds, "prompt_mask": mask}
    return {"noisy": given["noisy"].double(), "sigma": given["sigma"].double(), "conditioning": conditioning}


def test_loss_and_gradients_equal_plain_diffusers_on_prompts_without_padding():
    ours, plain, given = denoiser(), transformer(), inputs()
    target = torch.randn(given["noisy"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    loss = mse_loss(ours.predict(**given, guidance=None), target)
    loss.backward()
    expected = torch.zeros(())
    batch, channels, height, width = given["noisy"].shape
    for sample, length in enumerate(SEEN):
        (found,) = plain(
            hidden_states=ChromaPipeline._pack_latents(given["noisy"][sample : sample + 1], 1, channels, height, width),
            timestep=given["sigma"][sample : sample + 1],
            encoder_hidden_states=given["conditioning"]["prompt_embeds"][sample : sample + 1, :length],
            txt_ids=torch.zeros(length, 3, dtype=torch.float64),
            img_ids=ChromaPipeline._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float64),
            return_dict=False,
        )
        found = ChromaPipeline._unpack_latents(found, height * 8, width * 8, 8)
        expected = expected + mse_loss(found, target[sample : sample + 1]) / batch
    expected.backward()
    assert abs(loss - expected) < 1e-9
    theirs = lora.trainable(plain)
    for name, parameter in lora.trainable(ours.module).items():
        assert torch.allclose(parameter.grad, theirs[name].grad, rtol=0, atol=1e-9), name


@pytest.mark.parametrize("twice", [False, True])
def test_padding_cannot_change_the_output_or_a_gradient(twice):
    given = inputs()
    hidden = ~given["conditioning"]["prompt_mask"][:, :, None]
    other = torch.where(hidden, 100.0, given["conditioning"]["prompt_embeds"])
    found = []
    for embeds in (given["conditioning"]["prompt_embeds"], other):
        ours = denoiser()
        if twice:
            enable(ours.blocks, Recompute())
        prediction = ours.predict(
            **{**given, "conditioning": {**given["conditioning"], "prompt_embeds": embeds}}, guidance=None
        )
        prediction.square().mean().backward()
        found.append([prediction, *(one.grad for one in lora.trainable(ours.module).values())])
    for one, same in zip(*found, strict=True):
        assert one.isfinite().all()
        assert torch.allclose(one, same, rtol=0, atol=1e-12)


def test_tokens_can_be_routed_around_its_blocks():
    dense = denoiser().predict(**inputs(), guidance=None)
    for ratio, is_equal in ((0.0, True), (0.5, False)):
        ours = denoiser()
        router = TokenRouter(ours.blocks, [Route(1, -2, ratio)])
        with router.step(lambda: torch.Generator().manual_seed(4)):
            found = ours.predict(**inputs(), guidance=None)
        assert torch.equal(found, dense) is is_equal
        assert math.isfinite(float(found.sum()))


def test_without_its_adapter_it_is_the_base_model():
    ours, given = denoiser(), inputs()
    trained = ours.predict(**given, guidance=None)
    with Lora(ours.module, LoraPlan((), 3, 2.0), ()).without():
        assert not torch.allclose(ours.predict(**given, guidance=None), trained)
    assert torch.equal(ours.predict(**given, guidance=None), trained)
