"""LyCORIS adapters of every kind: they start as nothing, learn, switch off exactly, and survive their files."""

import pytest
import tiny
import torch
from safetensors.torch import load

from simpletuner.errors import CheckpointError, ModelError
from simpletuner.models.adapters import lycoris_settings
from simpletuner.models.adapters.formats.fitting import shapes
from simpletuner.models.adapters.lycoris import LycorisPlan
from simpletuner.models.adapters.lycoris_network import sketch, tensors_of
from simpletuner.models.adapters.lycoris_settings import ALGORITHMS, LycorisSettings
from simpletuner.models.adapters.merging import BaseAdapter, merge
from simpletuner.models.precision import PRECISIONS
from simpletuner.models.trained import parameters_of

LAYERS = {"target_module": ["Attention", "FeedForward"]}
PRECISE = ("no_change", "int8-quanto", "nf4-bnb")


def plan(algo="lokr", start=None, norm=None, **given):
    return LycorisPlan(
        LycorisSettings.read(
            {
                "algo": algo,
                "linear_dim": 4,
                "linear_alpha": 2,
                "factor": 4,
                "block_size": 2,
                "apply_preset": LAYERS,
                **given,
            }
        ),
        init_norm=norm,
        start_file=start,
    )


def attached(made=None, precision="no_change", seed=3, **given):
    denoiser = tiny.denoiser()
    PRECISIONS[precision](denoiser.module, denoiser.blocks)
    adapter = (made or plan(**given)).attach(denoiser.module, torch.float32, seed)
    denoiser.module.eval()
    return denoiser, adapter


def disturb(adapter, size=0.1):
    """Give every weight a value, as training would."""
    random = torch.Generator().manual_seed(5)
    for parameter in parameters_of(adapter).values():
        parameter.data += torch.randn(parameter.shape, generator=random) * size


def base(precision="no_change"):
    denoiser = tiny.denoiser()
    PRECISIONS[precision](denoiser.module, denoiser.blocks)
    return denoiser.predict(**tiny.inputs())


@pytest.mark.parametrize(("algo", "precision"), [(algo, one) for algo in ALGORITHMS for one in PRECISE])
def test_every_kind_starts_as_nothing_learns_and_switches_off_exactly(algo, precision):
    denoiser, adapter = attached(algo=algo, precision=precision)
    plain = base(precision)
    torch.testing.assert_close(denoiser.predict(**tiny.inputs()), plain, rtol=0, atol=1e-5)
    denoiser.module.train()
    weights = list(parameters_of(adapter).values())
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(4):
        loss = denoiser.predict(**tiny.inputs()).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(
        not parameter.requires_grad for name, parameter in denoiser.module.named_parameters() if "lycoris" not in name
    )
    denoiser.module.eval()
    changed = denoiser.predict(**tiny.inputs())
    with adapter.without(), torch.no_grad():
        assert torch.equal(denoiser.predict(**tiny.inputs()), plain)
    assert torch.equal(denoiser.predict(**tiny.inputs()), changed)
    assert not torch.equal(changed, plain)


def test_capitals_do_not_matter_in_the_names_of_algorithms():
    (_, plain), (_, other) = (
        attached(algo=algo, apply_preset={**LAYERS, "module_algo_map": {"FeedForward": {"algo": kind, "dim": 2}}})
        for algo, kind in (("diag-oft", "loha"), ("Diag_OFT", "LoHa"))
    )
    assert parameters_of(plain).keys() == parameters_of(other).keys()
    (said,) = lycoris_settings.problems({"algo": "DyLoRA", "linear_dim": 5, "block_size": 2})
    assert said == "linear_dim 5 is no multiple of block_size 2, which dylora needs"


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_checkpointing_computes_the_same_gradients(algo):
    found = []
    for checkpointing in (False, True):
        denoiser, adapter = attached(algo=algo, rank_dropout=0.3 if algo in {"lokr", "loha"} else 0)
        disturb(adapter)
        denoiser.module.train()
        if checkpointing:
            denoiser.module.enable_gradient_checkpointing()
        torch.manual_seed(1)
        denoiser.predict(**tiny.inputs()).square().mean().backward()
        found.append([weight.grad for weight in parameters_of(adapter).values()])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_checkpoint_puts_the_weights_back_exactly(algo):
    given = {"use_scalar": True} if algo in {"lokr", "loha", "locon"} else {}
    denoiser, adapter = attached(algo=algo, **given)
    disturb(adapter)
    other_denoiser, other = attached(algo=algo, seed=9, **given)
    other.load(other.decode(adapter.encode({"step": "1"})))
    assert torch.equal(other_denoiser.predict(**tiny.inputs()), denoiser.predict(**tiny.inputs()))


@pytest.mark.parametrize("algo", sorted(set(ALGORITHMS) - {"ia3"}))
def test_a_published_file_merged_into_a_base_has_the_same_effect(algo, tmp_path):
    denoiser, adapter = attached(algo=algo, **({"use_scalar": True} if algo == "lokr" else {}))
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    merged = tiny.denoiser()
    merge(merged.module, [BaseAdapter(str(path))])
    torch.testing.assert_close(merged.predict(**tiny.inputs()), denoiser.predict(**tiny.inputs()), rtol=1e-4, atol=1e-5)


def test_training_goes_on_from_a_published_file(tmp_path):
    denoiser, adapter = attached()
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    again, _ = attached(plan(start=str(path)))
    assert torch.equal(again.predict(**tiny.inputs()), denoiser.predict(**tiny.inputs()))
    with pytest.raises(ModelError, match="no adapter with the settings of lycoris_config.*with algo .lokr.; set that"):
        attached(plan(start=str(path), algo="loha"))


@pytest.mark.parametrize("algo", ["dylora", "loha", "glora", "lora"])
def test_training_goes_on_from_a_published_file_with_the_scaling_it_has(algo, tmp_path):
    given = {"use_scalar": True, "rs_lora": True} if algo != "dylora" else {}
    denoiser, adapter = attached(algo=algo, linear_alpha=6, **given)
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    again, other = attached(plan(start=str(path), algo=algo, linear_alpha=1, **given))
    torch.testing.assert_close(again.predict(**tiny.inputs()), denoiser.predict(**tiny.inputs()), rtol=1e-5, atol=1e-5)
    first, second = load(adapter.publish({})), load(other.publish({}))
    assert all(torch.allclose(second[name], one, rtol=1e-5) for name, one in first.items())


def test_another_alpha_than_that_of_a_checkpoint_acts_and_is_in_the_file(tmp_path):
    _, saved = attached(algo="loha", linear_alpha=8)
    disturb(saved)
    denoiser, adapter = attached(algo="loha", linear_alpha=2)
    adapter.load(saved.state())
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    merged = tiny.denoiser()
    merge(merged.module, [BaseAdapter(str(path))])
    torch.testing.assert_close(merged.predict(**tiny.inputs()), denoiser.predict(**tiny.inputs()), rtol=1e-4, atol=1e-5)
    assert {float(layer.scale) for layer in adapter.network.loras} == {0.5}


def test_whole_matrices_have_no_rank_to_be_scaled_by(tmp_path):
    denoiser, adapter = attached(full_matrix=True, rs_lora=True)
    disturb(adapter)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter.publish({}))
    merged = tiny.denoiser()
    merge(merged.module, [BaseAdapter(str(path))])
    torch.testing.assert_close(merged.predict(**tiny.inputs()), denoiser.predict(**tiny.inputs()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_outline_tells_the_shapes_of_every_kind(algo):
    given = {"algo": algo, "dora_wd": True, "linear_dim": 4, "rescaled": True, "apply_preset": LAYERS}
    adapter = LycorisPlan(LycorisSettings.read(given)).attach(tiny.flux(), torch.float32, 3)
    found = tensors_of(sketch(tiny.flux(), LycorisSettings.read(given)))
    assert {name: one.shape for name, one in found.items()} == {n: one.shape for n, one in adapter.state().items()}
    assert {one.device.type for one in found.values()} == {"meta"}


def test_rows_are_left_out_wherever_the_weights_are():
    (layer, *_) = sketch(tiny.flux(), LycorisSettings.read({"algo": "lokr", "rank_dropout": 0.3})).loras
    assert layer.train().get_weight(layer.shape).device.type == "meta"


def test_the_share_of_ranks_that_is_left_out_is_the_one_that_was_asked_for():
    denoiser, adapter = attached(algo="glora", precision="int8-quanto", rank_dropout=0.1)
    disturb(adapter)
    layer = adapter.network.loras[0].train()
    ones = torch.ones(1, 32)
    whole = layer.eval().bypass_forward_diff(ones)
    layer.train()
    torch.manual_seed(0)
    assert sum(torch.equal(layer.bypass_forward_diff(ones), whole) for _ in range(40)) > 5  # 17 expected


def test_all_linear_layers_are_trained_on_a_packed_base_too():
    _, adapter = attached(precision="int8-quanto", apply_preset={"target_module": ["Linear"]})
    assert len(adapter.network.loras) == len(shapes(tiny.flux()))


def test_entries_of_maps_know_what_is_known_at_the_top():
    entry = {"algo": "LoHa", "dim": "2", "dora_wd": "true", "factor": None}
    _, adapter = attached(apply_preset={"target_module": ["Attention"], "module_algo_map": {"FeedForward": entry}})
    kept = {name.split(".")[0] for name in parameters_of(adapter) if "dora_scale" in name}
    assert kept
    assert all("_ff_" in name for name in kept)
    with pytest.raises(ModelError, match="dora_wd needs the plain weights"):
        attached(precision="nf4-bnb", apply_preset={"module_algo_map": {"FeedForward": entry}})


def test_dropout_that_an_algorithm_cannot_do_does_no_harm():
    denoiser, _ = attached(algo="diag-oft", precision="int8-quanto", dropout=0.2)
    denoiser.module.train()
    denoiser.predict(**tiny.inputs()).square().mean().backward()


def test_a_dylora_file_cut_to_a_lower_rank_adds_what_was_trained_at_that_rank(tmp_path):
    denoiser, adapter = attached(algo="dylora")
    disturb(adapter)
    tensors = load(adapter.publish({}))
    layer = adapter.network.loras[0]
    name = layer.lora_name
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    given = torch.randn(3, down.shape[1])
    layer.train()
    seen = {round(float(layer.bypass_forward_diff(given).norm()), 4) for _ in range(20)}
    cut = {rank: (up[:, :rank] @ down[:rank] * (2.0 / rank)) for rank in (2, 4)}
    assert seen == {round(float((given @ delta.T).norm()), 4) for delta in cut.values()}


def test_layers_and_sizes_follow_the_json():
    preset = {"target_module": ["Attention", "FeedForward"], "module_algo_map": {"FeedForward": {"factor": 8}}}
    _, adapter = attached(apply_preset=preset, full_matrix=True)
    shapes = {name: tuple(one.shape) for name, one in adapter.network.named_parameters()}
    assert len(adapter.network.loras) == 3 * 12 + 5 * 3
    assert shapes["lycoris_transformer_blocks_0_attn_to_q.lokr_w1"] == (4, 4)
    assert shapes["lycoris_transformer_blocks_0_ff_net_2.lokr_w1"] == (4, 8)
    _, named = attached(apply_preset={"target_module": [], "target_name": [r".*attn\.to_q$"]})
    assert len(named.network.loras) == 8


def test_two_adapters_in_one_process_do_not_share_settings():
    attached(apply_preset={"target_module": ["FeedForward"]})
    _, second = attached(apply_preset={"target_module": ["Attention"]})
    assert all("attn" in layer.lora_name for layer in second.network.loras)


def test_half_a_multiplier_is_half_the_effect():
    whole, half = (attached(multiplier=share)[1] for share in (1.0, 0.5))
    for adapter in (whole, half):
        disturb(adapter)
    given = torch.randn(3, 32)
    ones = [one.network.loras[0](given) - one.network.loras[0].org_forward(given) for one in (whole, half)]
    torch.testing.assert_close(ones[1], ones[0] / 2, rtol=1e-4, atol=1e-6)


def test_lokr_can_start_near_zero():
    _, adapter = attached(plan(full_matrix=True, norm=1e-3))
    parts = dict(adapter.network.named_parameters())
    name = "lycoris_transformer_blocks_0_attn_to_q"
    weight = tiny.flux().get_submodule("transformer_blocks.0.attn.to_q").weight
    assert torch.equal(parts[f"{name}.lokr_w1"], torch.ones(4, 4))
    assert float(parts[f"{name}.lokr_w2"].std()) == pytest.approx(float(weight.std()) * 1e-3, rel=0.1)
    with pytest.raises(ModelError, match="init_lokr_norm: needs algo lokr with full_matrix"):
        attached(plan(algo="loha", norm=1e-3))


def test_a_module_class_that_is_not_there_is_named():
    with pytest.raises(ModelError, match=r"the network has no Transformer2DModelX.*FluxAttention"):
        attached(apply_preset={"target_module": ["Transformer2DModelX"]})


def test_lengths_need_the_plain_weights():
    denoiser, adapter = attached(dora_wd=True)
    torch.testing.assert_close(denoiser.predict(**tiny.inputs()), base(), rtol=0, atol=1e-5)
    assert any("dora_scale" in name for name in parameters_of(adapter))
    with pytest.raises(ModelError, match="dora_wd needs the plain weights"):
        attached(dora_wd=True, precision="nf4-bnb")


def test_an_adapter_of_other_settings_is_not_resumed():
    (_, one), (_, other) = attached(), attached(algo="loha")
    with pytest.raises(CheckpointError, match="other layers than this run's"):
        one.load(other.state())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"algo": "lokar"}, "there is no algo 'lokar'; did you mean 'lokr'?"),
        ({"algo": "full"}, "algo 'full' is not served yet; use lokr with full_matrix"),
        ({"linear_dimm": 4}, "the settings have no 'linear_dimm'; did you mean 'linear_dim'?"),
        ({"multiplier": 0}, "multiplier 0 switches the adapter off"),
        ({"linear_dim": "four"}, "linear_dim must be a whole number of at least 1, got 'four'"),
        ({"algo": "dylora", "linear_dim": 10, "block_size": 4}, "linear_dim 10 is no multiple of block_size 4"),
        ({"linear_dim": 4.5}, "linear_dim must be a whole number of at least 1, got 4.5"),
        ({"rank_dropout": 1}, "rank_dropout must be a number of at least 0 and below 1, got 1"),
        ({"dora_wd": True, "bypass_mode": True}, "dora_wd does not go together with bypass_mode"),
        ({"apply_preset": {"target_name": [3]}}, "target_name must be a list of names, and 3 is none"),
        ({"apply_preset": {"target_modul": []}}, "did you mean 'target_module'?"),
        (
            {"apply_preset": {"module_algo_map": {"Attention": {"factr": 8}}}},
            "module_algo_map Attention have no 'factr'",
        ),
        (
            {"apply_preset": {"module_algo_map": {"Attention": {"dim": "x"}}}},
            "module_algo_map Attention: dim must be a whole number of at least 1, got 'x'",
        ),
        (
            {"apply_preset": {"module_algo_map": {"Attention": {"dropout": 0.1}}}},
            "module_algo_map Attention: dropout holds for all layers; set it beside algo",
        ),
        (
            {"apply_preset": {"name_algo_map": {"to_q": {"algo": "dylora", "dim": 6}}}},
            "name_algo_map to_q: linear_dim 6 is no multiple of block_size 4",
        ),
        (
            {"apply_preset": {"name_algo_map": {"(": {}}}},
            "name_algo_map: '(' is not a regular expression",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_named(given, said):
    assert any(said in problem for problem in lycoris_settings.problems(given))


def test_the_settings_of_the_reference_are_taken(tmp_path):
    path = tmp_path / "lycoris.json"
    path.write_text(
        '{"algo": "lokr", "multiplier": 1.0, "full_matrix": true, "linear_alpha": 1, "factor": 16, "apply_preset": '
        '{"target_module": ["Attention", "FeedForward"], "module_algo_map": {"Attention": {"factor": 16}, '
        '"FeedForward": {"factor": 8}}}}'
    )
    given = lycoris_settings.load(str(path))
    assert not list(lycoris_settings.problems(given))
    _, adapter = attached(LycorisPlan(LycorisSettings.read(given)))
    assert len(adapter.network.loras) == 51
    with pytest.raises(ValueError, match="there is no file"):
        lycoris_settings.load(str(tmp_path / "other.json"))
