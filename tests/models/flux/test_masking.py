"""With masked attention the padding of prompts does not exist: nothing in it reaches the image."""

import tiny
import torch
from torch.nn.functional import mse_loss

from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.checkpointing import Recompute, enable
from simpletuner.models.flux.denoiser import FluxDenoiser
from simpletuner.models.tread import Route, TokenRouter

WORDS = (3, 5)
"""Real lengths of the two prompts; the rest of their seven tokens is padding."""


def denoiser(**options):
    module = tiny.flux(**options).double()
    lora.attach(module, LoraPlan(("to_q", "add_k_proj", "to_v"), 3, 2.0), torch.float64, 3)
    random = torch.Generator().manual_seed(5)
    for parameter in lora.trainable(module).values():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=random) * 0.1
    return FluxDenoiser(module, masks_prompt=True)


def inputs():
    given = tiny.inputs()
    conditioning = {name: one.double() for name, one in given["conditioning"].items()}
    conditioning["prompt_mask"] = torch.arange(tiny.TEXT)[None] < torch.tensor(WORDS)[:, None]
    doubled = {name: given[name].double() for name in ("noisy", "sigma", "guidance")}
    return {**doubled, "conditioning": conditioning}


def with_other_padding(given):
    conditioning = dict(given["conditioning"])
    hidden = ~conditioning["prompt_mask"][:, :, None]
    conditioning["prompt_embeds"] = torch.where(hidden, 100.0, conditioning["prompt_embeds"])
    return {**given, "conditioning": conditioning}


def test_changing_masked_tokens_cannot_change_the_output():
    masked, given = denoiser(), inputs()
    assert torch.equal(masked.predict(**given), masked.predict(**with_other_padding(given)))
    seeing = FluxDenoiser(masked.module)
    assert not torch.allclose(seeing.predict(**given), seeing.predict(**with_other_padding(given)))


def test_loss_and_gradients_equal_those_of_prompts_that_are_cut_to_their_words():
    masked, cut, given = denoiser(), denoiser(), inputs()
    target = torch.randn(given["noisy"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    loss = mse_loss(masked.predict(**given), target)
    loss.backward()
    expected = torch.zeros(())
    for sample, words in enumerate(WORDS):
        alone = {name: given[name][sample : sample + 1] for name in ("noisy", "sigma", "guidance")}
        one = {name: tensor[sample : sample + 1] for name, tensor in given["conditioning"].items()}
        one["prompt_embeds"] = one["prompt_embeds"][:, :words]
        found = FluxDenoiser(cut.module).predict(**alone, conditioning=one)
        expected = expected + mse_loss(found, target[sample : sample + 1]) / len(WORDS)
    expected.backward()
    assert abs(loss - expected) < 1e-9
    theirs = lora.trainable(cut.module)
    for name, parameter in lora.trainable(masked.module).items():
        assert torch.allclose(parameter.grad, theirs[name].grad, rtol=0, atol=1e-9), name


def test_masked_tokens_stay_hidden_in_blocks_that_are_computed_twice_and_on_routes():
    for change in (lambda blocks: enable(blocks, Recompute()), lambda blocks: None):
        masked, given = denoiser(), inputs()
        change(masked.blocks)
        router = TokenRouter(masked.blocks, [Route(1, -2, 0.5)])
        found = []
        for one in (given, with_other_padding(given)):
            with router.step(lambda: torch.Generator().manual_seed(4)):
                found.append(masked.predict(**one))
        assert torch.equal(*found)
