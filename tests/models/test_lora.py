"""A LoRA starts as nothing, survives its file, and switches off without a trace."""

import json

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load

from simpletuner.errors import CheckpointError, ModelError
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.dropout import Dropout
from simpletuner.models.adapters.formats.files import encode
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.lora_file import neutral
from simpletuner.models.adapters.presets import PRESETS

PLAN = LoraPlan(tuple(PRESETS["all+ffs"]), rank=4, alpha=2.0, dropout=Dropout(0.1))


def attached(plan=PLAN, seed=3):
    denoiser = tiny.denoiser()
    lora.attach(denoiser.module, plan, torch.float32, seed)
    denoiser.module.eval()
    return denoiser


def disturb(denoiser):
    """Give every adapter weight a value, as training would."""
    random = torch.Generator().manual_seed(5)
    for parameter in lora.trainable(denoiser.module).values():
        parameter.data = torch.randn(parameter.shape, generator=random) * 0.1


def test_a_new_adapter_changes_nothing():
    assert torch.equal(attached().predict(**tiny.inputs()), tiny.denoiser().predict(**tiny.inputs()))


def test_only_the_adapter_is_trainable():
    assert all("lora_" in name for name in lora.trainable(attached().module))


def test_the_same_seed_gives_the_same_start():
    first, second, other = (lora.adapter_state(attached(seed=seed).module) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_without_the_adapter_it_is_exactly_the_base_and_training_goes_on_afterwards():
    denoiser = tiny.denoiser()
    adapter = lora.attach(denoiser.module, PLAN, torch.float32, 3)
    denoiser.module.eval()
    disturb(denoiser)
    base, changed = tiny.denoiser().predict(**tiny.inputs()), denoiser.predict(**tiny.inputs())
    assert not torch.equal(changed, base)
    with adapter.without(), torch.no_grad():
        assert torch.equal(denoiser.predict(**tiny.inputs()), base)
    assert torch.equal(denoiser.predict(**tiny.inputs()), changed)
    assert lora.trainable(denoiser.module)


def test_a_saved_file_puts_the_weights_back():
    first, second = attached(), attached(seed=9)
    disturb(first)
    lora.load_adapter_state(second.module, lora.decode_file(lora.encode_file(first.module, {})))
    assert torch.equal(second.predict(**tiny.inputs()), first.predict(**tiny.inputs()))


def test_the_file_names_its_scaling_and_never_its_dropout(tmp_path):
    path = tmp_path / lora.FILE_NAME
    path.write_bytes(lora.encode_file(attached().module, {"modelspec.title": "test"}))
    with safe_open(path, "pt") as file:
        header = file.metadata()
    settings = json.loads(header["lora_adapter_metadata"])
    assert settings["transformer.lora_alpha"] == 2.0
    assert settings["transformer.lora_dropout"] == 0.0
    assert header["modelspec.title"] == "test"
    assert all(name.startswith("transformer.") for name in load(path.read_bytes()))


def test_the_file_says_of_ranks_that_differ_even_where_none_does(tmp_path):
    """Diffusers 0.38 does not load a file without."""
    path = tmp_path / lora.FILE_NAME
    path.write_bytes(lora.encode_file(attached().module, {}))
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (settings["transformer.rank_pattern"], settings["transformer.alpha_pattern"]) == ({}, {})


def test_stock_diffusers_loads_the_file_with_the_same_effect(tmp_path):
    from diffusers import FluxPipeline

    denoiser = attached()
    disturb(denoiser)
    (tmp_path / lora.FILE_NAME).write_bytes(lora.encode_file(denoiser.module, {}))
    stock = tiny.denoiser()
    state, metadata = FluxPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    FluxPipeline.load_lora_into_transformer(state, None, stock.module, metadata=metadata)
    expected = denoiser.predict(**tiny.inputs())
    torch.testing.assert_close(stock.predict(**tiny.inputs()), expected, rtol=0, atol=1e-6)
    assert torch.equal(stock.predict(**tiny.inputs()), stock.predict(**tiny.inputs()))


def test_targets_that_match_nothing_are_named():
    with pytest.raises(ModelError, match="no layer of the network is called attn.nonsense"):
        attached(LoraPlan(("attn.nonsense",), rank=4, alpha=4))


def test_an_adapter_of_another_rank_is_not_resumed():
    other = lora.adapter_state(attached(LoraPlan(PLAN.targets, rank=8, alpha=2.0)).module)
    with pytest.raises(CheckpointError, match="lora_rank of the saved run"):
        lora.load_adapter_state(attached().module, other)


def test_an_adapter_of_other_layers_is_not_resumed():
    other = lora.adapter_state(attached(LoraPlan(tuple(PRESETS["mmdit"]), rank=4, alpha=2.0)).module)
    with pytest.raises(CheckpointError, match="flux_lora_target of the saved run"):
        lora.load_adapter_state(attached().module, other)


def test_a_file_with_folded_scaling_has_the_same_effect_and_needs_no_header(tmp_path):
    from diffusers import FluxPipeline

    denoiser = attached()
    disturb(denoiser)
    data = encode(neutral(denoiser.module), "diffusers", {})
    plain, folded = load(lora.encode_file(denoiser.module, {})), load(data)
    for name in plain:
        torch.testing.assert_close(folded[name], plain[name] * (0.5 if ".lora_B." in name else 1.0))
    (tmp_path / lora.FILE_NAME).write_bytes(data)
    stock = tiny.denoiser()
    state, metadata = FluxPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    FluxPipeline.load_lora_into_transformer(state, None, stock.module, metadata=metadata)
    expected = denoiser.predict(**tiny.inputs())
    torch.testing.assert_close(stock.predict(**tiny.inputs()), expected, rtol=0, atol=1e-6)
