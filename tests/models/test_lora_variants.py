"""What a LoRA can be besides plain: other starts, dropouts, lengths, learning rates, and its files."""

import json

import pytest
import tiny
import torch
from diffusers import FluxPipeline
from safetensors import safe_open

from simpletuner.errors import ModelError
from simpletuner.models.adapters import lora, starts
from simpletuner.models.adapters.dropout import Dropout
from simpletuner.models.adapters.formats.files import read_adapter
from simpletuner.models.adapters.layers import Rule, Shape
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.lora_state import lora_layers
from simpletuner.models.adapters.merging import BaseAdapter, merge
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.precision import PRECISIONS
from simpletuner.models.trained import parameters_of

FROM_BASE = ("pissa", "olora", "loftq")
MIXED = Shape(
    classes={"img_attn_dim": 2, "img_mod_dim": 3},
    in_dims=(2, 0, 3, 0, 2),
    rank_pattern={"single_transformer_blocks.1.proj_out": 6},
    alpha_pattern={"to_v": 1.0},
    rules=(Rule(r"^transformer_blocks\.0\..*to_k", rank=1, alpha=3.0, learning_rate=1e-3),),
    single_blocks="1-3",
)
VARIANTS = {
    "plain": {},
    "mixed": {"shape": MIXED},
    "rslora": {"use_rslora": True, "shape": MIXED},
    "dora": {"use_dora": True, "shape": MIXED},
    **{init: {"init": init, "shape": MIXED} for init in FROM_BASE},
    "pissa with rslora": {"init": "pissa", "use_rslora": True},
}


def plan(**changes):
    return LoraPlan(**{"targets": tuple(PRESETS["all+ffs"]), "rank": 4, "alpha": 2.0, **changes})


def attached(seed=3, precision="no_change", **changes):
    denoiser = tiny.denoiser()
    PRECISIONS[precision](denoiser.module, denoiser.blocks)
    adapter = plan(**changes).attach(denoiser.module, torch.float32, seed)
    denoiser.module.eval()
    return denoiser, adapter


def disturb(adapter):
    random = torch.Generator().manual_seed(5)
    for parameter in parameters_of(adapter).values():
        parameter.data += torch.randn(parameter.shape, generator=random) * 0.1


def same(one, other, atol=1e-5):
    torch.testing.assert_close(one.predict(**tiny.inputs()), other.predict(**tiny.inputs()), rtol=0, atol=atol)


ON_PACKED = [(one, packed) for one in ("mixed", "dora", "pissa") for packed in ("int8-quanto", "nf4-bnb")]


@pytest.mark.parametrize(("variant", "precision"), [*((one, "no_change") for one in VARIANTS), *ON_PACKED])
def test_it_starts_as_nothing_learns_and_switches_off_exactly(variant, precision):
    denoiser, adapter = attached(precision=precision, **VARIANTS[variant])
    plain = tiny.denoiser()
    PRECISIONS[precision](plain.module, plain.blocks)
    same(denoiser, plain, atol=1e-5 if "dora" in variant else 0)
    denoiser.module.train()
    weights = list(parameters_of(adapter).values())
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(3):
        loss = denoiser.predict(**tiny.inputs()).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    denoiser.module.eval()
    with adapter.without(), torch.no_grad():
        assert torch.equal(denoiser.predict(**tiny.inputs()), plain.predict(**tiny.inputs()))
    assert all(weight.requires_grad for weight in weights)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_puts_the_weights_back_exactly(variant):
    denoiser, adapter = attached(**VARIANTS[variant])
    disturb(adapter)
    other_denoiser, other = attached(seed=9, **VARIANTS[variant])
    other.load(other.decode(adapter.encode({})))
    same(other_denoiser, denoiser, atol=0)
    for name, parameter in parameters_of(adapter).items():
        assert torch.equal(parameters_of(other)[name], parameter), name


@pytest.mark.parametrize("is_final", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_stock_diffusers_gives_the_same_picture_from_the_file(variant, is_final, tmp_path):
    denoiser, adapter = attached(**VARIANTS[variant])
    disturb(adapter)
    data = adapter.publish({}) if is_final else adapter.encode({})
    (tmp_path / lora.FILE_NAME).write_bytes(data)
    stock = tiny.denoiser()
    state, metadata = FluxPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    FluxPipeline.load_lora_into_transformer(state, None, stock.module, metadata=metadata)
    same(stock, denoiser)


@pytest.mark.parametrize("variant", ["plain", "dora", "pissa with rslora"])
@pytest.mark.parametrize("form", ["diffusers", "kohya", "comfyui"])
def test_a_base_with_the_published_file_merged_gives_the_same_picture(variant, form, tmp_path):
    shape = Shape(classes=MIXED.classes, rank_pattern={"to_add_out": 6})
    given = {**VARIANTS[variant], "shape": shape, "targets": tuple(PRESETS["all"]), "file_format": form}
    denoiser, adapter = attached(**given)
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    try:
        path.write_bytes(adapter.publish({}))
    except ModelError as error:
        assert variant == "dora" and "DoRA" in str(error)
        return
    merged = tiny.denoiser()
    merge(merged.module, [BaseAdapter(str(path))])
    same(merged, denoiser)


def test_half_of_a_base_adapter_is_half_of_its_change(tmp_path):
    _, adapter = attached()
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    whole, half = tiny.denoiser(), tiny.denoiser()
    merge(whole.module, [BaseAdapter(str(path))])
    merge(half.module, [BaseAdapter(str(path), 0.25), BaseAdapter(str(path), 0.25)])
    name = "transformer_blocks.0.attn.to_q.weight"
    before, after, middle = (one.module.get_parameter(name) for one in (tiny.denoiser(), whole, half))
    torch.testing.assert_close(middle, (before + after) / 2)


def test_half_of_a_dora_in_the_base_is_half_of_its_change(tmp_path):
    _, adapter = attached(use_dora=True)
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    whole, half = tiny.denoiser(), tiny.denoiser()
    merge(whole.module, [BaseAdapter(str(path))])
    merge(half.module, [BaseAdapter(str(path), 0.5)])
    name = "transformer_blocks.0.attn.to_q.weight"
    before, after, middle = (one.module.get_parameter(name) for one in (tiny.denoiser(), whole, half))
    assert not torch.allclose(before, after, atol=1e-2)
    torch.testing.assert_close(middle, (before + after) / 2)


def test_pissa_is_the_published_method():
    """Freezing the rest of the weights and training the strongest part gives the same output and gradients."""
    weight = tiny.flux().get_submodule("transformer_blocks.0.ff.net.2").weight
    down, up = starts.pissa(weight, 4, 0.5)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    strongest = left[:, :4] @ torch.diag(values[:4]) @ right[:4]
    torch.testing.assert_close(up @ down * 0.5, strongest, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(down.norm(dim=1), up.norm(dim=0), rtol=1e-3, atol=1e-4)
    denoiser, adapter = attached(init="pissa")
    layer = lora_layers(denoiser.module)["transformer_blocks.0.ff.net.2"]
    given = torch.randn(3, 128)
    layer(given).square().sum().backward()
    first, second = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    free = [first.detach().clone().requires_grad_(), second.detach().clone().requires_grad_()]
    rest = weight - second.detach() @ first.detach() * 0.5
    bias = layer.get_base_layer().bias
    (given @ (rest + free[1] @ free[0] * 0.5).T + bias).square().sum().backward()
    for one, other in zip((first, second), free, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_olora_starts_from_orthogonal_directions():
    weight = torch.randn(12, 20)
    down, up = starts.olora(weight, 4, 1.0)
    torch.testing.assert_close(up.T @ up, torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(up.T @ weight, down, rtol=0, atol=1e-4)


def test_four_bits_are_those_of_bitsandbytes_and_loftq_makes_up_for_some_of_the_loss():
    from bitsandbytes import functional

    weight = torch.randn(32, 128)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    torch.testing.assert_close(
        starts.in_four_bits(weight), functional.dequantize_4bit(packed, state), atol=1e-3, rtol=0
    )
    down, up = starts.loftq(weight, 8, 1.0)
    lost = weight - starts.in_four_bits(weight)
    assert (lost - up @ down).norm() < 0.9 * lost.norm()


@pytest.mark.parametrize("precision", ["int8-quanto", "nf4-bnb"])
def test_packed_weights_can_be_read(precision):
    denoiser = tiny.denoiser()
    PRECISIONS[precision](denoiser.module, denoiser.blocks)
    name = "transformer_blocks.0.ff.net.2"
    found = starts.plain_weight(denoiser.module.get_submodule(name))
    weight = tiny.flux().get_submodule(name).weight
    assert (found - weight).norm() / weight.norm() < 0.12


def test_a_rank_above_the_size_of_a_layer_is_named():
    with pytest.raises(ModelError, match="lora_init_type pissa cannot give rank 40 to"):
        attached(init="pissa", rank=40)


def masks(dropout, times=400):
    torch.manual_seed(0)
    return torch.stack([dropout.mask(torch.ones(2, 5, 8)) for _ in range(times)])


def test_dropouts_leave_out_what_they_say():
    ranks = masks(Dropout(ranks=0.25))
    assert torch.equal(ranks, ranks[:, :, :1].expand_as(ranks)), "the same ranks for all tokens of an image"
    assert float(ranks.mean()) == pytest.approx(1, abs=0.05)
    assert {0.0, round(4 / 3, 4)} == {round(float(one), 4) for one in ranks.unique()}
    assert not torch.equal(ranks[:, 0], ranks[:, 1])
    layers = masks(Dropout(layers=0.25)).flatten(1)
    assert bool((layers == layers[:, :1]).all())
    assert float(layers.mean()) == pytest.approx(0.75, abs=0.06)
    between = masks(Dropout(0.25, "rank"))
    assert float((between == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert not Dropout(0.25).is_between and Dropout(0.25).before == 0.25 and not Dropout(0.25, "rank").before


@pytest.mark.parametrize("init", ["default", "pissa"])
@pytest.mark.parametrize("dropout", [Dropout(0.3, "rank"), Dropout(ranks=0.3), Dropout(layers=0.3), Dropout(0.3)])
def test_dropout_is_off_while_drawing_and_the_same_when_a_block_is_computed_again(init, dropout):
    denoiser, adapter = attached(dropout=dropout, init=init)
    denoiser.module.train()
    torch.manual_seed(2)
    same(denoiser, tiny.denoiser(), atol=0)  # a fresh adapter is nothing, whatever is dropped
    disturb(adapter)
    quiet, other = attached(init=init)
    disturb(other)
    denoiser.module.eval()
    same(denoiser, quiet, atol=0)
    denoiser.module.train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            denoiser.module.enable_gradient_checkpointing()
        torch.manual_seed(1)
        denoiser.predict(**tiny.inputs()).square().mean().backward()
        found.append([weight.grad.clone() for weight in parameters_of(adapter).values()])
        denoiser.module.zero_grad()
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_layer_that_is_left_out_is_the_base():
    denoiser, adapter = attached(dropout=Dropout(layers=0.999999))
    disturb(adapter)
    denoiser.module.train()
    same(denoiser, tiny.denoiser(), atol=0)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_no_layer_adds_more_than_the_largest_norm(use_rslora):
    denoiser, adapter = attached(max_norm=0.5, use_rslora=use_rslora)
    disturb(adapter)
    layers = lora_layers(denoiser.module)
    before = {name: layer.get_delta_weight("default") for name, layer in layers.items()}
    told = adapter.after_step()
    for name, layer in layers.items():
        share = min(1.0, 0.5 / float(before[name].norm()))
        torch.testing.assert_close(layer.get_delta_weight("default"), before[name] * share, rtol=1e-4, atol=1e-6)
    norms = torch.tensor([float(delta.norm()) for delta in before.values()])
    assert told["adapter_norm_max"] == pytest.approx(float(norms.max()), rel=1e-4)
    assert told["adapter_norm_limited"] == int((norms > 0.5).sum()) > 0
    assert attached()[1].after_step() == {}


def test_learning_rates_of_rules_and_of_second_matrices():
    _, adapter = attached(shape=MIXED, ratio=16.0)
    found = {(group.factor(1e-4), ".lora_B." in name) for group in adapter.groups() for name in group.parameters}
    assert {(round(factor, 6), second) for factor, second in found} == {
        (1.0, False),
        (16.0, True),
        (10.0, False),
        (160.0, True),
    }
    counted = [name for group in adapter.groups() for name in group.parameters]
    assert len(counted) == len(set(counted)) == len(lora.trainable(adapter.module))
    assert len(attached()[1].groups()) == 1


def test_the_header_names_every_rank_and_alpha(tmp_path):
    path = tmp_path / lora.FILE_NAME
    path.write_bytes(attached(shape=MIXED, use_rslora=True)[1].encode({"modelspec.title": "test"}))
    with safe_open(path, "pt") as file:
        header = file.metadata()
    settings = json.loads(header["lora_adapter_metadata"])
    assert settings["transformer.use_rslora"] is True
    assert settings["transformer.rank_pattern"][r"^single_transformer_blocks\.1\.proj_out"] == 6
    found = read_adapter(path).of("transformer")["transformer_blocks.0.attn.to_k"]
    assert found.rank == 1
    assert found.scale == pytest.approx(3.0)


@pytest.mark.parametrize("form", ["diffusers", "kohya", "comfyui"])
def test_training_goes_on_from_a_file_with_its_ranks_and_alphas(form, tmp_path):
    shape = Shape(classes={"img_attn_dim": 2})
    denoiser, adapter = attached(shape=shape, targets=tuple(PRESETS["all"]), file_format=form)
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    for use_rslora in (False, True):
        again, other = attached(
            targets=("ff.net.2",), rank=7, start_file=str(path), use_rslora=use_rslora, max_norm=None
        )
        same(again, denoiser)
        sizes = {layer.name: layer.rank for layer in other.layers}
        assert sizes["transformer_blocks.0.ff.net.2"] == 7
        assert "transformer_blocks.0.attn.add_q_proj" in sizes


def test_a_dora_of_a_plain_file_starts_as_the_file(tmp_path):
    denoiser, adapter = attached()
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    again, dora = attached(start_file=str(path), use_dora=True)
    same(again, denoiser, atol=1e-4)
    path.write_bytes(dora.publish({}))
    same(attached(start_file=str(path), use_dora=True)[0], again)
    with pytest.raises(ModelError, match="is DoRA; set use_dora to true"):
        attached(start_file=str(path))


def test_a_file_of_another_network_is_refused(tmp_path):
    _, adapter = attached(targets=("ff.net.2",))
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    wide = torch.nn.ModuleDict({"transformer_blocks": torch.nn.ModuleList([torch.nn.Linear(3, 3)])})
    with pytest.raises(ModelError, match="does not fit the model"):
        merge(wide, [BaseAdapter(str(path))])
