"""``simpletuner export`` as a user meets it: files of any program in, checked files out, and reasons why not."""

from __future__ import annotations

import adapters
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from simpletuner.cli.export import command
from simpletuner.models.adapters.formats import FORMATS
from simpletuner.models.adapters.formats.comparing import compare
from simpletuner.models.adapters.formats.files import encode, read_adapter

HEADER = {"modelspec.title": "zorb", "ss_tag_frequency": '{"secret": {}}', "ss_network_dim": "99", "global_step": "7"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "zorb.safetensors"
    path.write_bytes(encode(adapters.adapter(alpha=lambda number: 1.0), "diffusers", HEADER))
    return path


def export(*words):
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_written_beside_the_other_and_checked(name, file):
    done = export(file, "--format", name, "--check")
    assert done.exit_code == 0, done.output
    written = file.with_name(f"zorb-{name}.safetensors")
    assert f"{written}: 95 layers, {name} format" in done.output
    assert "checked: all 95 layers add the same to the model; largest difference" in done.output
    assert compare(read_adapter(file), read_adapter(written)).apart == {}


def test_what_the_file_says_about_itself_is_kept_but_not_what_was_true_of_the_old_form(file):
    export(file, "--format", "kohya")
    header = read_adapter(file.with_name("zorb-kohya.safetensors")).header
    assert header["modelspec.title"] == "zorb" and header["global_step"] == "7"
    assert header["ss_network_dim"] == "4" and header["ss_base_model_version"] == "flux1"
    assert "lora_adapter_metadata" not in header


def test_the_private_switch_leaves_names_and_tags_out(file):
    export(file, "--format", "comfyui", "--private", "--output", file.with_name("public.safetensors"))
    header = read_adapter(file.with_name("public.safetensors")).header
    assert header.keys() == {"format", "global_step", "sshs_model_hash"}


def test_there_and_back_gives_the_same_tensors(file):
    export(file, "--format", "kohya")
    export(file.with_name("zorb-kohya.safetensors"), "--format", "diffusers", "-o", file.with_name("back.safetensors"))
    one, other = load_file(file), load_file(file.with_name("back.safetensors"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_cannot_be_exported_says_why_with_exit_code_two(file, tmp_path):
    (tmp_path / "lora.ckpt").write_bytes(b"\x80\x02")
    save_file({"lora_unet_single_blocks_0_linear2.hada_w1_a": torch.ones(1)}, tmp_path / "loha.safetensors")
    said = {
        ("missing.safetensors", "--format", "kohya"): "there is no adapter file",
        (tmp_path / "lora.ckpt", "--format", "kohya"): "is a pickle",
        (tmp_path / "loha.safetensors", "--format", "kohya"): "a LyCORIS adapter of the kind LoHa",
        (file, "--format", "kohya", "--output", file): "exists already; choose another --output",
        (file, "--format", "kohya", "--output", tmp_path / "lora.pt"): "must end in .safetensors",
        (file, "--format", "xlabs"): "'xlabs' is not one of 'diffusers', 'kohya', 'comfyui'",
        (file,): "Missing option '-f' / '--format'",
    }
    for words, expected in said.items():
        done = export(*words)
        assert done.exit_code == 2 and expected in done.output.replace("\n", " "), done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loha.safetensors", "lora.ckpt", "zorb.safetensors"]
