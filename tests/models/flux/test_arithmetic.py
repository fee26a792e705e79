"""What is said about the work of a forward pass equals what torch counts while it happens."""

from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import FluxControlNetModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.flux import kontext
from simpletuner.models.flux.arithmetic import forward_work
from simpletuner.models.flux.controlnet import beside
from simpletuner.models.precision import PRECISIONS
from simpletuner.models.references import name


def told(*references):
    """What a network is told, with references of these latent sizes."""
    return {
        "prompt_embeds": torch.randn(1, tiny.TEXT, tiny.WIDTH),
        "pooled_prompt_embeds": torch.randn(1, tiny.WIDTH),
        **{name(number): torch.randn(1, 16, *size) for number, size in enumerate(references)},
    }


def counted(denoiser, height, width, conditioning):
    latents = torch.randn(1, 16, height, width)
    guidance = torch.ones(1) if denoiser.uses_guidance else None
    # Of attention, torch counts only the plain form on a processor.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        denoiser.predict(latents, torch.full((1,), 0.5), conditioning, guidance)
    return counter.get_total_flops()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (16, 16)])
def test_the_work_of_a_forward_pass_is_what_torch_counts(height, width):
    denoiser = tiny.denoiser()
    expected = counted(denoiser, height, width, told())
    assert forward_work(denoiser.module, height * width // 4, tiny.TEXT) == pytest.approx(expected, rel=1e-6)


def test_tokens_of_references_are_counted():
    denoiser = replace(tiny.denoiser(), has_still_references=True)
    kontext.give_each_its_time(denoiser.module)
    given = told((8, 8), (4, 12))
    # What tells the tokens time 0, beside the time of the image, is small and left out.
    assert denoiser.work(8, 12, given) == pytest.approx(counted(denoiser, 8, 12, given), rel=1e-2)


def test_a_controlnet_is_counted_with_its_base():
    base = tiny.denoiser()
    control = FluxControlNetModel.from_config({**base.module.config, "num_layers": 2, "num_single_layers": 3})
    steered, given = beside(base, control), told((8, 12))
    assert steered.work(8, 12, given) == pytest.approx(counted(steered, 8, 12, given), rel=1e-6)


def test_packing_and_an_adapter_do_not_change_what_is_counted():
    plain = forward_work(tiny.denoiser().module, 16, tiny.TEXT)
    other = tiny.denoiser()
    PRECISIONS["int8-quanto"](other.module, other.blocks, None)
    lora.attach(other.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 2.0), torch.float32, seed=3)
    assert forward_work(other.module, 16, tiny.TEXT) == plain
