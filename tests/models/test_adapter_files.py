"""The files of an adapter: those in checkpoints are as good for other programs as the result, and go on exactly."""

from __future__ import annotations

import json

import pytest
import torch
from models.test_lora_variants import attached, disturb
from safetensors.torch import load_file

from simpletuner.models.adapters.adapter import EXACT, FILE_NAME, AdapterFile

OTHERS = {"kohya": {"file_format": "kohya"}, "alpha": {"alpha": 3.0}, "start": {"init": "pissa"}}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_checkpoint_has_the_file_that_the_result_would_be(kind, tmp_path):
    """ComfyUI reads no header: a file without alpha would act with another strength there."""
    _, adapter = attached(**OTHERS[kind])
    disturb(adapter)
    whole = AdapterFile(adapter)
    whole.save(tmp_path, {"global_step": "1"})
    result = whole.publish(tmp_path / "result", {"global_step": "1"})
    assert (tmp_path / FILE_NAME).read_bytes() == result.read_bytes()


@pytest.mark.parametrize("kind", OTHERS)
def test_what_was_trained_comes_back_bit_for_bit_from_beside_that_file(kind, tmp_path):
    _, adapter = attached(**OTHERS[kind])
    disturb(adapter)
    AdapterFile(adapter).save(tmp_path, {})
    _, other = attached(**OTHERS[kind])
    AdapterFile(other).restore(tmp_path)
    state = other.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in adapter.state().items())


def test_a_file_that_says_it_all_is_the_only_one(tmp_path):
    _, adapter = attached(alpha=None)
    disturb(adapter)
    AdapterFile(adapter).save(tmp_path, {})
    assert not (tmp_path / EXACT).exists()
    assert load_file(tmp_path / FILE_NAME).keys() == {f"transformer.{name}" for name in adapter.state()}


def test_checkpoints_whose_only_file_is_the_exact_one_are_gone_on_from_too(tmp_path):
    """They were made so before there were two files."""
    _, adapter = attached(alpha=3.0)
    disturb(adapter)
    (tmp_path / FILE_NAME).write_bytes(adapter.encode({}))
    _, other = attached(alpha=3.0)
    AdapterFile(other).restore(tmp_path)
    assert all(torch.equal(other.state()[name], tensor) for name, tensor in adapter.state().items())


@pytest.mark.parametrize("file_format", ["diffusers", "comfyui", "kohya"])
def test_the_header_tells_the_sizes_that_the_file_has(file_format):
    """A run that begins with init_lora has the sizes of that file, and not lora_rank."""
    _, adapter = attached(rank=2, alpha=1.0, file_format=file_format)
    data = adapter.publish({"ss_network_dim": "16", "ss_network_alpha": "16"})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert float(header["ss_network_alpha"]) / float(header["ss_network_dim"]) == 0.5
    assert file_format == "kohya" or header["ss_network_dim"] == "2"
