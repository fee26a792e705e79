"""Every preset of `flux_lora_target` hits exactly the layers that the reference counts on the full-size transformer."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from simpletuner.models.adapters.presets import PRESETS


@pytest.fixture(scope="module")
def names() -> list[str]:
    """The linear layers of FLUX.1-dev, without any weights."""
    with torch.device("meta"):
        module = FluxTransformer2DModel(guidance_embeds=True)
    return [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)]


@pytest.mark.parametrize(
    ("preset", "double", "single", "top"),
    [
        ("mmdit", 76, 114, 0),
        ("all", 152, 114, 0),
        ("context", 76, 0, 0),
        ("context+ffs", 114, 0, 0),
        ("all+ffs", 228, 190, 1),
        ("ai-toolkit", 266, 228, 1),
        ("all+ffs+embedder", 228, 190, 2),
        ("tiny", 0, 2, 0),
        ("nano", 0, 1, 0),
    ],
)
def test_a_preset_hits_the_layers_that_are_counted_for_it(names, preset, double, single, top):
    hit = [name for name in names if any(name == end or name.endswith(f".{end}") for end in PRESETS[preset])]
    in_double = [name for name in hit if name.startswith("transformer_blocks.")]
    in_single = [name for name in hit if name.startswith("single_transformer_blocks.")]
    assert (len(in_double), len(in_single), len(hit) - len(in_double) - len(in_single)) == (double, single, top)


def test_every_preset_says_what_it_is_for():
    assert all(PRESETS.summary(name).endswith(".") for name in PRESETS)
