"""What every precision keeps: nearly the same output, exact gradients for an adapter on top, untouched small layers."""

import pytest
import tiny
import torch

from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.family import Compute
from simpletuner.models.flux.text import open_encoders
from simpletuner.models.precision import PRECISIONS, packable

ERROR = {"no_change": 0.0, "int8-quanto": 0.02, "nf4-bnb": 0.2}


def packed(name):
    denoiser = tiny.denoiser()
    PRECISIONS[name](denoiser.module, denoiser.blocks)
    return denoiser


@pytest.mark.parametrize("name", PRECISIONS)
def test_packing_keeps_the_output_close(name):
    plain, found = (one.predict(**tiny.inputs()) for one in (tiny.denoiser(), packed(name)))
    assert (found - plain).norm() / plain.norm() <= ERROR[name]


@pytest.mark.parametrize("name", PRECISIONS)
def test_only_the_large_layers_of_the_blocks_are_packed(name):
    plain, denoiser = tiny.flux(), packed(name)
    large = {layer for layer, _ in packable(plain, [*plain.transformer_blocks, *plain.single_transformer_blocks])}
    assert len(large) == 3 * 14 + 5 * 6
    for layer, module in denoiser.module.named_modules():
        if isinstance(plain.get_submodule(layer), torch.nn.Linear) and layer not in large:
            assert type(module) is torch.nn.Linear, layer
            assert torch.equal(module.weight, plain.get_submodule(layer).weight)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", PRECISIONS)
def test_an_adapter_on_a_packed_base_gets_gradients_and_learns(name, checkpointing):
    denoiser = packed(name)
    lora.attach(denoiser.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 4.0), torch.float32, seed=1)
    denoiser.module.train()
    if checkpointing:
        denoiser.module.enable_gradient_checkpointing()
    weights = list(lora.trainable(denoiser.module).values())
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(4):
        loss = denoiser.predict(**tiny.inputs()).square().mean()
        loss.backward()
        assert any(weight.grad.abs().sum() > 0 for weight in weights)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_the_packed_weights_take_less_memory():
    def bytes_of(name):
        return sum(t.numel() * t.element_size() for t in packed(name).module.state_dict().values())

    assert bytes_of("nf4-bnb") < bytes_of("int8-quanto") < 0.65 * bytes_of("no_change")


@pytest.mark.parametrize("name", PRECISIONS)
def test_drawing_between_two_steps_does_not_change_the_base(name):
    denoiser = packed(name)
    lora.attach(denoiser.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 4.0), torch.float32, seed=1)

    def gradients():
        denoiser.module.train()
        denoiser.module.zero_grad()
        denoiser.predict(**tiny.inputs()).square().mean().backward()
        return [weight.grad.clone() for weight in lora.trainable(denoiser.module).values()]

    before = gradients()
    denoiser.module.eval()
    with torch.no_grad():
        denoiser.predict(**tiny.inputs())
    assert all(torch.equal(one, other) for one, other in zip(before, gradients(), strict=True))


@pytest.mark.parametrize("name", PRECISIONS)
def test_packed_text_encoders_say_nearly_the_same(name, model):
    def encoded(precision):
        compute = Compute(torch.device("cpu"), torch.float32)
        with open_encoders(tiny.weights(model), (precision, precision), None, compute) as encode:
            (found,) = encode(["a red circle on a white background"])
        return found

    plain, found = encoded("no_change"), encoded(name)
    for part in ("prompt_embeds", "pooled_prompt_embeds"):
        assert (found[part] - plain[part]).norm() / plain[part].norm() <= 1.5 * ERROR[name]
