"""What a packed layer computes, compared with plain arithmetic and with the libraries whose forms it keeps."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from simpletuner.models.flux.denoiser import FluxDenoiser
from simpletuner.models.precision import (
    FASTER,
    PRECISIONS,
    activation_problem,
    full_training_problem,
    kept,
    missing_package,
    packing,
    recipe,
    workplace,
)
from simpletuner.models.precision.forms import Float8, Grouped, Int8
from simpletuner.models.precision.layers import pack
from simpletuner.models.precision.normal import NormalFloat4
from simpletuner.models.precision.packed import PackedLinear
from simpletuner.models.precision.products import Float8Product, Int8Product

FORMS = [Int8(), Float8(), Float8(torch.float8_e4m3fnuz), Grouped(4), Grouped(2), NormalFloat4()]
PRODUCTS = [Int8Product(), Float8Product()]


def layer(rows: int = 48, columns: int = 128, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Linear(columns, rows, bias=bias).requires_grad_(False).to(dtype)


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS], ids=str)
@pytest.mark.parametrize("shape", [(128,), (1, 128), (2, 5, 128), (0, 128)])
def test_a_packed_layer_takes_inputs_of_any_shape(form, shape):
    packed, x = PackedLinear.of(layer(), form), inputs(*shape).requires_grad_()
    found, expected = packed(x), nn.functional.linear(x, packed.weight, packed.bias)
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 0.05 * expected.norm()
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_product_and_gradients_are_those_of_the_unpacked_weight(form, bias):
    packed, x = PackedLinear.of(layer(bias=bias), form).double(), inputs(3, 7, 128).double().requires_grad_()
    found = packed(x)
    expected = x @ packed.weight.T + (packed.bias if bias else 0)
    assert (found - expected).abs().max() <= 1e-12
    weights = torch.randn_like(found)
    (got,) = torch.autograd.grad((found * weights).sum(), x)
    assert (got - weights @ packed.weight).abs().max() <= 1e-12


@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS], ids=str)
def test_a_bias_can_be_trained(form):
    packed, x = PackedLinear.of(layer(), form), inputs(3, 7, 128)
    packed.bias.requires_grad_()
    packed(x).square().sum().backward()
    assert torch.allclose(packed.bias.grad, 2 * packed(x).detach().sum((0, 1)), rtol=1e-4)


@pytest.mark.parametrize("form", PRODUCTS, ids=str)
def test_products_without_unpacking_round_the_input_and_nothing_else(form):
    packed, x = PackedLinear.of(layer(), form), inputs(40, 128)
    largest = 127.0 if isinstance(form, Int8) else 448.0
    scale = x.abs().amax(-1, keepdim=True) / largest
    rounded = (x / scale).round() if isinstance(form, Int8) else (x / scale).to(torch.float8_e4m3fn).float()
    expected = nn.functional.linear((rounded * scale).double(), packed.weight.double(), packed.bias.double())
    assert (packed(x) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("form", PRODUCTS, ids=str)
def test_the_gradient_of_a_product_without_unpacking_is_that_of_the_weight(form):
    packed, x = PackedLinear.of(layer(), form), inputs(40, 128).requires_grad_()
    weights = inputs(40, 48)
    (packed(x) * weights).sum().backward()
    assert torch.allclose(x.grad, weights @ packed.weight, atol=1e-6)


@pytest.mark.parametrize("form", PRODUCTS, ids=str)
def test_layers_that_cards_cannot_multiply_as_they_are_get_unpacked(form):
    packed, x = PackedLinear.of(layer(rows=20, columns=34), form), inputs(40, 34)
    assert torch.equal(packed(x), nn.functional.linear(x, packed.weight, packed.bias))


@pytest.mark.parametrize(
    ("form", "bound"), zip([*FORMS, *PRODUCTS], (0.006, 0.028, 0.028, 0.066, 0.28, 0.1, 0.006, 0.028), strict=True)
)
def test_weights_err_by_no_more_than_their_form_says(form, bound):
    source = layer(rows=96, columns=512)
    found = PackedLinear.of(source, form).weight
    assert (found - source.weight).norm() / source.weight.norm() <= bound


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_of_zeros_of_one_number_and_of_outliers_survive(form):
    source = layer()
    source.weight[0], source.weight[1] = 0.0, 0.25
    source.weight[2, 0] = 100.0
    found = PackedLinear.of(source, form).weight
    assert found.isfinite().all()
    assert not found[0].any()
    assert torch.allclose(found[1], source.weight[1], rtol=0.01)
    assert (found[2] - source.weight[2]).norm() <= 0.3 * source.weight[2].norm()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_packed_a_few_rows_at_a_time_is_the_same(form, monkeypatch):
    whole = PackedLinear.of(layer(), form)
    monkeypatch.setattr("simpletuner.models.precision.packed._AT_ONCE", 128 * 5)
    pieces = PackedLinear.of(layer(), form)
    assert all(torch.equal(one, other) for one, other in zip(whole.buffers(), pieces.buffers(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [64, 256])
def test_normal_floats_are_those_of_bitsandbytes(columns, dtype):
    functional = pytest.importorskip("bitsandbytes").functional
    source = layer(rows=32, columns=columns, dtype=dtype)
    packed = PackedLinear.of(source, NormalFloat4())
    codes, state = functional.quantize_4bit(source.weight, blocksize=64, quant_type="nf4")
    assert torch.equal(packed.codes.view(-1, 1), codes)
    assert torch.equal(packed.weight, functional.dequantize_4bit(codes, state))


@pytest.mark.parametrize("columns", [24, 96])
def test_normal_floats_are_right_too_where_a_row_is_no_whole_number_of_groups(columns):
    source = layer(rows=32, columns=columns)
    found = PackedLinear.of(source, NormalFloat4()).weight
    assert (found - source.weight).norm() / source.weight.norm() <= 0.1


def test_fitted_levels_err_less_than_those_of_optimum_quanto():
    quanto = pytest.importorskip("optimum.quanto")
    source = layer(rows=96, columns=512)
    with torch.no_grad():
        source.weight.normal_(generator=torch.Generator().manual_seed(0))
    for bits, kind in ((4, quanto.qint4), (2, quanto.qint2)):
        theirs = nn.Sequential(layer(rows=96, columns=512))
        theirs[0].weight.data = source.weight.clone()
        quanto.quantize(theirs, weights=kind)
        quanto.freeze(theirs)
        errors = [
            (one - source.weight).norm()
            for one in (PackedLinear.of(source, Grouped(bits)).weight, theirs[0].weight.dequantize())
        ]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS], ids=str)
def test_a_compiler_can_trace_forward_and_backward(form):
    packed, x = PackedLinear.of(layer(), form), inputs(2, 5, 128)

    def step(compiled: nn.Module) -> list[torch.Tensor]:
        given = x.clone().requires_grad_()
        output = compiled(given)
        output.square().sum().backward()
        assert given.grad is not None
        return [output, given.grad]

    found = step(torch.compile(packed, backend="aot_eager", fullgraph=True))
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, step(packed), strict=True))


def test_nothing_unpacked_waits_for_the_way_back():
    packed, kept_for_later = PackedLinear.of(layer(), Int8()), []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept_for_later.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, note):
        packed(inputs(4, 128).requires_grad_())
    assert kept_for_later == []


def test_a_layer_whose_shape_does_not_fit_stays_as_it_is():
    net = nn.Sequential(layer(columns=31), layer(columns=32))
    pack(net, [net], Grouped(4), None)
    assert [type(one) for one in net] == [nn.Linear, PackedLinear]


def test_work_on_another_device_leaves_the_parts_where_the_weights_were():
    net, same, cpu = nn.Sequential(layer()), nn.Sequential(layer()), torch.device("cpu")
    assert (workplace("cpu", cpu), workplace("accelerator", cpu), workplace("pipeline", cpu)) == (None, cpu, cpu)
    packing("int4-quanto", cpu)(net)
    packing("int4-quanto")(same)
    assert all(torch.equal(one, other) for one, other in zip(net.buffers(), same.buffers(), strict=True))


def test_packing_what_flows_between_layers_names_the_precision_that_does():
    for name, faster in FASTER.items():
        assert kept(name, activations=True) == faster
        assert kept(name, activations=False) == name
        assert activation_problem(name, activations=True) is None
    assert activation_problem("nf4-bnb", activations=False) is None
    assert activation_problem("nf4-bnb", activations=True) == (
        "true does not go together with base_model_precision nf4-bnb; use int8-quanto, int8-torchao, fp8-quanto, "
        "fp8wo-torchao, or leave it out"
    )


def test_every_precision_has_its_own_recipe():
    assert len({recipe(name) for name in PRECISIONS}) == len(PRECISIONS)


def test_every_name_that_is_not_served_is_sent_to_one_that_is():
    assert all(advice.removeprefix("use ").partition(",")[0] in PRECISIONS for advice in PRECISIONS.later.values())
    assert len(PRECISIONS) + len(PRECISIONS.later) == 28 + 2  # those of the reference, int8-matmul, and bf16


def test_what_a_precision_needs_is_told_with_a_way_around():
    assert missing_package("int4-quanto") is None
    found = missing_package("nf4-bnb")
    assert found is None or found.startswith("'nf4-bnb' needs bitsandbytes, which is not installed; install it with")


def test_packed_weights_are_not_for_training_all_of_them():
    assert full_training_problem("no_change") is None
    assert "use no_change, or train a LoRA" in (full_training_problem("int8-quanto") or "")


@pytest.mark.parametrize(
    ("name", "billions"), [("int8-quanto", 12.0), ("int4-quanto", 6.8), ("int2-quanto", 3.8), ("nf4-bnb", 6.4)]
)
def test_the_weights_of_flux_take_as_much_as_the_documentation_says(name, billions):
    with torch.device("meta"):
        denoiser = FluxDenoiser(FluxTransformer2DModel(guidance_embeds=True).to(torch.bfloat16))
    PRECISIONS[name](denoiser.module, denoiser.blocks)
    held = (*denoiser.module.parameters(), *denoiser.module.buffers())
    assert round(sum(one.numel() * one.element_size() for one in held) / 1e9, 1) == billions


@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS], ids=str)
def test_storage_may_be_swapped_between_the_way_there_and_the_way_back(form):
    packed, x = PackedLinear.of(layer(), form), inputs(4, 128).requires_grad_()
    (expected,) = torch.autograd.grad(packed(x).square().sum(), x)
    output, away = packed(x), {name: part.data.clone() for name, part in packed.named_buffers()}
    for part in packed.buffers():
        part.data = torch.empty(0, dtype=part.dtype)
    for name, part in packed.named_buffers():
        part.data = away[name]
    (found,) = torch.autograd.grad(output.square().sum(), x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS], ids=str)
def test_shapes_can_be_asked_for_without_weights(form):
    with torch.device("meta"):
        packed = PackedLinear.of(nn.Linear(128, 48).requires_grad_(False), form)
        assert packed(torch.empty(2, 5, 128)).shape == (2, 5, 48)
