"""What every precision keeps: nearly the same output, exact gradients for an adapter on top, untouched small layers."""

import copy

import pytest
import tiny
import torch
from safetensors.torch import load, save

from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.family import Compute, TextSettings
from simpletuner.models.flux.text import open_encoders
from simpletuner.models.precision import PRECISIONS, packable, packing

ERROR = {
    "no_change": 0.0,
    "int8-quanto": 0.002,
    "nf4-bnb": 0.04,
    "int8-matmul": 0.004,
    "int4-quanto": 0.025,
    "int2-quanto": 0.11,
    "fp8-quanto": 0.012,
    "fp8uz-quanto": 0.012,
    "fp8-native": 0.016,
}
"""How far the output of the tiny Flux may be from that of the weights as they were, as a share of its norm."""

TEXT_ERROR = {
    "no_change": 0.0,
    "int8-quanto": 0.025,
    "nf4-bnb": 0.3,
    "int8-matmul": 0.03,
    "int4-quanto": 0.3,
    "int2-quanto": 1.0,
    "fp8-quanto": 0.08,
    "fp8uz-quanto": 0.08,
    "fp8-native": 0.1,
}
"""The same for what the text encoders say; those of the tests are narrow, which makes every error large."""

PACKED = [name for name in ERROR if name != "no_change"]
"""Each form once; what else is listed are other names for them."""


def packed(name, dtype=torch.float32):
    denoiser = tiny.denoiser()
    denoiser.module.to(dtype)
    PRECISIONS[name](denoiser.module, denoiser.blocks)
    return denoiser


def attach(denoiser):
    return lora.attach(denoiser.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 4.0), torch.float32, seed=1)


def weights_of(denoiser):
    return list(lora.trainable(denoiser.module).values())


def unpacked(name):
    """An ordinary network with the weights that the packed one acts with."""
    plain, source = tiny.denoiser(), packed(name).module
    for layer, _ in packable(plain.module, plain.blocks):
        plain.module.get_submodule(layer).weight.data = source.get_submodule(layer).weight
    return plain


def test_every_precision_is_tested_by_one_of_its_names():
    assert {PRECISIONS[name] for name in ERROR} == set(PRECISIONS.values())


@pytest.mark.parametrize("name", ERROR)
def test_packing_keeps_the_output_close(name):
    plain, found = (one.predict(**tiny.inputs()) for one in (tiny.denoiser(), packed(name)))
    assert (found - plain).norm() / plain.norm() <= ERROR[name]


@pytest.mark.parametrize("name", PACKED)
def test_packing_in_bf16_keeps_the_output_as_close(name):
    plain = tiny.denoiser().predict(**tiny.inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = packed(name, torch.bfloat16).predict(**tiny.inputs())
    assert (found - plain).norm() / plain.norm() <= ERROR[name] + 0.01


@pytest.mark.parametrize("name", ERROR)
def test_only_the_large_layers_of_the_blocks_are_packed(name):
    plain, denoiser = tiny.flux(), packed(name)
    large = {layer for layer, _ in packable(plain, [*plain.transformer_blocks, *plain.single_transformer_blocks])}
    assert len(large) == 3 * 14 + 5 * 6
    for layer, module in denoiser.module.named_modules():
        if isinstance(plain.get_submodule(layer), torch.nn.Linear) and layer not in large:
            assert type(module) is torch.nn.Linear, layer
            assert torch.equal(module.weight, plain.get_submodule(layer).weight)
    assert (not list(packable(denoiser.module, denoiser.blocks))) == (name != "no_change")


@pytest.mark.parametrize("name", PACKED)
def test_layers_are_packed_one_block_at_a_time_as_all_at_once(name):
    whole, streamed = packed(name), tiny.denoiser()
    for block in streamed.blocks:
        packing(name)(block)
    found, expected = streamed.module.state_dict(), whole.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", PACKED)
def test_an_adapter_on_a_packed_base_gets_the_gradients_of_the_unpacked_weights(name, checkpointing):
    def gradients(denoiser):
        attach(denoiser)
        weights = weights_of(denoiser)
        denoiser.module.train()
        if checkpointing and denoiser.module is not plain.module:
            denoiser.module.enable_gradient_checkpointing()
        output = denoiser.predict(**tiny.inputs())
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        return torch.cat([weight.grad.flatten() for weight in weights])

    plain = unpacked(name)
    expected, found = gradients(plain), gradients(packed(name))
    # Where inputs are packed too, the forward product is not that of the weights, and so neither is what comes back.
    bound = {"int8-matmul": 0.02, "fp8-native": 0.06}.get(name, 1e-5)
    assert (found - expected).norm() / expected.norm() <= bound


@pytest.mark.parametrize("name", ERROR)
def test_an_adapter_on_a_packed_base_learns_and_leaves_no_trace_when_it_is_switched_off(name):
    denoiser = packed(name)
    bare = denoiser.predict(**tiny.inputs())
    adapter, weights = attach(denoiser), weights_of(denoiser)
    denoiser.module.train()
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(4):
        loss = denoiser.predict(**tiny.inputs()).square().mean()
        loss.backward()
        assert any(weight.grad.abs().sum() > 0 for weight in weights)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    with adapter.without():
        assert torch.equal(denoiser.predict(**tiny.inputs()), bare)


def test_the_packed_weights_take_less_memory():
    def bytes_of(name):
        state = packed(name, torch.bfloat16).module.state_dict()
        plain = tiny.denoiser()
        large = [layer for layer, _ in packable(plain.module, plain.blocks)]
        return sum(
            part.numel() * part.element_size()
            for layer in large
            for key, part in state.items()
            if key.startswith(f"{layer}.") and not key.endswith(".bias")
        )

    whole = bytes_of("no_change")
    # Rows and groups of the tiny network are short, so scales weigh more than they do in FLUX.1.
    assert bytes_of("int8-quanto") == bytes_of("fp8-quanto") < 0.54 * whole
    assert bytes_of("nf4-bnb") < bytes_of("int4-quanto") < 0.33 * whole
    assert bytes_of("int2-quanto") < 0.21 * whole


@pytest.mark.parametrize("name", PACKED)
def test_drawing_between_two_steps_does_not_change_the_base(name):
    denoiser = packed(name)
    attach(denoiser)

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


@pytest.mark.parametrize("name", PACKED)
def test_packed_weights_come_back_from_a_file_into_a_network_without_weights(name):
    source = packed(name)
    with torch.device("meta"):
        empty = tiny.denoiser()
    PRECISIONS[name](empty.module, empty.blocks)
    content = load(save(dict(source.module.state_dict())))
    empty.module.load_state_dict(content, assign=True)
    assert torch.equal(empty.predict(**tiny.inputs()), source.predict(**tiny.inputs()))


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_network_can_be_copied_and_moved_to_another_precision(name):
    source = packed(name)
    expected = source.predict(**tiny.inputs())
    assert torch.equal(copy.deepcopy(source).predict(**tiny.inputs()), expected)
    codes = source.module.transformer_blocks[0].attn.to_q.codes.clone()
    source.module.to(torch.bfloat16).to(torch.float32)
    assert torch.equal(source.module.transformer_blocks[0].attn.to_q.codes, codes)
    assert (source.predict(**tiny.inputs()) - expected).norm() / expected.norm() < 0.01


@pytest.mark.parametrize("name", TEXT_ERROR)
def test_packed_text_encoders_say_nearly_the_same(name, model):
    def encoded(precision):
        compute = Compute(torch.device("cpu"), torch.float32)
        with open_encoders(
            tiny.weights(model), TextSettings((precision, precision), None, "unmodified"), compute
        ) as encode:
            (found,) = encode(["a red circle on a white background"])
        return found

    plain, found = encoded("no_change"), encoded(name)
    for part in ("prompt_embeds", "pooled_prompt_embeds"):
        assert (found[part] - plain[part]).norm() / plain[part].norm() <= TEXT_ERROR[name]
