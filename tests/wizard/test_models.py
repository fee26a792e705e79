"""A single file as the model to start from: it is looked at as the check does, and what it lacks is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from models.flux.single_files import bfl_transformer, written
from safetensors.torch import save_file

from simpletuner.wizard.models import PARTS, lacking, refused, refused_part

AUTOENCODER, CLIP, T5 = PARTS


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a transformer and nothing else."""
    folder = tmp_path_factory.mktemp("files")
    path: Path = written(folder / "flux1-dev.safetensors", bfl_transformer(tiny.flux().state_dict()))
    return path


def part(path: Path, sign: str) -> str:
    """A file that looks like one of the other parts."""
    save_file({sign: torch.zeros(1)}, path)
    return str(path)


def test_a_single_file_is_taken_and_says_what_it_lacks(flux: Path) -> None:
    assert refused(str(flux), "flux", {}) is None
    assert refused("{env:MODELS}/flux1-dev.safetensors", "flux", {"MODELS": str(flux.parent)}) is None
    assert lacking(str(flux), "flux", {}) == [AUTOENCODER, CLIP, T5]
    assert lacking("me/flux", "flux", {}) == []


def test_what_the_check_would_say_of_a_file_is_said_at_once(flux: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(flux.read_bytes()[:-1])
    adapter = part(tmp_path / "adapter.safetensors", "lora_unet_double_blocks_0.lora_down.weight")
    other = part(tmp_path / "chroma.safetensors", "distilled_guidance_layer.in_proj.weight")
    for text, said in {
        str(tmp_path / "nowhere.safetensors"): "There is no file",
        str(tmp_path / "flux.gguf"): "is a GGUF file",
        str(tmp_path / "flux.ckpt"): "is a pickle",
        str(torn): "ends too early",
        adapter: "an adapter and not a model",
        other: "set model_family to chroma",
        part(tmp_path / "ae.safetensors", "decoder.conv_in.weight"): "holds no transformer; name the file that does",
        str(tmp_path / "nowhere"): "There is no folder",
        " ": "Name a folder, a .safetensors file",
    }.items():
        assert said in (refused(text, "flux", {}) or "taken"), text


def test_a_file_of_another_part_is_refused(flux: Path, tmp_path: Path) -> None:
    autoencoder = part(tmp_path / "ae.safetensors", "decoder.conv_in.weight")
    assert refused_part(AUTOENCODER, autoencoder, "flux", str(flux), {}) is None
    assert "holds no CLIP text encoder" in (refused_part(CLIP, autoencoder, "flux", str(flux), {}) or "")
    assert "There is no file" in (refused_part(T5, "t5.safetensors", "flux", str(flux), {}) or "")
