"""What is said about the work of a forward pass equals what torch counts while it happens."""

import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.flux.arithmetic import forward_work
from simpletuner.models.precision import PRECISIONS


def counted(denoiser, height, width):
    latents = torch.randn(1, 16, height, width)
    conditioning = {
        "prompt_embeds": torch.randn(1, tiny.TEXT, tiny.WIDTH),
        "pooled_prompt_embeds": torch.randn(1, tiny.WIDTH),
    }
    guidance = torch.ones(1) if denoiser.uses_guidance else None
    # Of attention, torch counts only the plain form on a processor.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        denoiser.predict(latents, torch.full((1,), 0.5), conditioning, guidance)
    return counter.get_total_flops()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (16, 16)])
def test_the_work_of_a_forward_pass_is_what_torch_counts(height, width):
    denoiser = tiny.denoiser()
    expected = counted(denoiser, height, width)
    assert forward_work(denoiser.module, height * width // 4, tiny.TEXT) == pytest.approx(expected, rel=1e-6)


def test_packing_and_an_adapter_do_not_change_what_is_counted():
    plain = forward_work(tiny.denoiser().module, 16, tiny.TEXT)
    other = tiny.denoiser()
    PRECISIONS["int8-quanto"](other.module, other.blocks, None)
    lora.attach(other.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 2.0), torch.float32, seed=3)
    assert forward_work(other.module, 16, tiny.TEXT) == plain
