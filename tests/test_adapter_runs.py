"""Whole runs with every kind of adapter: they resume exactly, and their files are what was trained."""

import json

import house
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from simpletuner.errors import ConfigError
from simpletuner.progress import StepDone

LYCORIS = {
    "algo": "lokr",
    "linear_dim": 4,
    "linear_alpha": 1,
    "factor": 4,
    "apply_preset": {"target_module": ["Attention", "FeedForward"], "module_algo_map": {"FeedForward": {"factor": 2}}},
}
KINDS = {
    "lokr": {"lora_type": "lycoris", "lycoris_config": LYCORIS, "base_model_precision": "int8-quanto"},
    "pissa": {"lora_init_type": "pissa", "lora_dropout": 0.1, "rank_dropout": 0.1},
    "sizes": {
        "loraplus_lr_ratio": 4,
        "lora_max_norm": 0.05,
        "img_attn_dim": 2,
        "in_dims": [1, 0, 1, 0, 1],
        "lora_layers": [{"pattern": "to_k", "rank": 1, "lr": 1e-3}],
        "optimizer": "adamw_bf16",
        "mixed_precision": "bf16",
    },
    "dora": {"use_dora": True, "lora_format": "kohya"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_and_three_are_six(kind, tmp_path, model, pictures):
    options = {"checkpoint_step_interval": 3, "max_train_steps": 6, **KINDS[kind]}
    paths = [house.write_run(tmp_path / name, [house.data_set("subject", pictures)], **options) for name in ("a", "b")]
    whole, heard = house.run(paths[0], model)
    house.run(paths[1], model, "max_train_steps=3")
    halves, _ = house.run(paths[1], model, "resume_from_checkpoint=latest")
    one, other = load_file(whole.adapter), load_file(halves.adapter)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(tensor.float().abs().sum() for name, tensor in one.items() if "lora_B" in name or "lokr_w2" in name) or (
        kind == "dora"
    )
    if kind == "sizes":
        told = [event.metrics for event in heard.events if isinstance(event, StepDone)]
        assert all(metrics["adapter_norm_mean"] <= 0.05 for metrics in told)


def test_training_goes_on_from_the_file_of_another_run_on_a_base_with_it_merged(tmp_path, model, pictures):
    data = [house.data_set("subject", pictures)]
    first, _ = house.run(house.write_run(tmp_path / "a", data, lora_format="kohya"), model)
    second, _ = house.run(
        house.write_run(tmp_path / "b", data, init_lora=str(first.adapter), base_adapters=str(first.adapter)), model
    )
    assert load_file(second.adapter).keys()
    with pytest.raises(ConfigError, match="there is no adapter file"):
        house.run(house.write_run(tmp_path / "c", data, init_lora="nowhere.safetensors"), model)


def test_settings_of_lycoris_lie_beside_the_config(tmp_path, model, pictures):
    path = house.write_run(
        tmp_path, [house.data_set("subject", pictures)], lora_type="lycoris", lycoris_config="own.json", lora_rank=8
    )
    with pytest.raises(ConfigError, match=r"lycoris_config: there is no file 'own.json'"):
        house.run(path, model)
    (tmp_path / "own.json").write_text('{"algo": "diag-oft", "linear_dim": 4}')
    outcome, _ = house.run(path, model)
    assert any("oft_blocks" in name for name in load_file(outcome.adapter))
    with safe_open(outcome.adapter, "pt") as file:
        header = file.metadata()
    assert json.loads(header["lycoris_config"])["linear_dim"] == 4
    assert not [name for name in header if name.startswith("ss_network_")]  # these would tell of a plain LoRA
    assert "LyCORIS" in outcome.card.read_text()


def test_what_does_not_go_together_stops_before_anything_is_loaded(tmp_path, model, pictures):
    data = [house.data_set("subject", pictures)]
    path = house.write_run(tmp_path, data, lora_init_type="loftq", base_model_precision="int8-quanto")
    with pytest.raises(ConfigError, match="lora_init_type: loftq needs the weights as they are"):
        house.run(path, model)
