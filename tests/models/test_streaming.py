"""Weights come block by block, and of a fused tensor only the rows that are asked for."""

import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from simpletuner.errors import ModelError
from simpletuner.models.streaming import Piece, check, fill
from simpletuner.models.weight_files import contents

BLOCKS = [*(f"transformer_blocks.{n}" for n in range(3)), *(f"single_transformer_blocks.{n}" for n in range(5))]
KINDS = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.uint8)


@pytest.fixture
def pieces(tmp_path):
    save_file(tiny.flux().state_dict(), tmp_path / "flux.safetensors")
    return {name: Piece(entry) for name, entry in contents(tmp_path / "flux.safetensors").items()}


def empty():
    with torch.device("meta"):
        return FluxTransformer2DModel.from_config(tiny.flux().config)


def test_a_block_is_packed_when_it_is_whole_and_before_the_next_one_is_read(pieces):
    module, done = empty(), []

    def pack(block):
        name = next(name for name, one in module.named_modules() if one is block)
        done.append(name)
        for other in BLOCKS:
            in_memory = not any(one.is_meta for one in module.get_submodule(other).parameters())
            assert in_memory == (other in done), other

    fill(module, pieces, torch.bfloat16, blocks=BLOCKS, pack=pack)
    assert done == BLOCKS
    assert {one.dtype for one in module.parameters()} == {torch.bfloat16}


def test_only_the_rows_that_are_asked_for_are_read(tmp_path):
    matrix = torch.arange(24.0).reshape(6, 4)
    save_file({"fused": matrix, "factor": torch.tensor([2.0])}, tmp_path / "one.safetensors")
    found = contents(tmp_path / "one.safetensors")
    part = Piece(found["fused"], rows=slice(2, 4), scale=found["factor"])
    assert part.shape == (2, 4)
    assert torch.equal(part.read(torch.float32), 2 * matrix[2:4])
    path = tmp_path / "one.safetensors"
    path.write_bytes(path.read_bytes()[: found["fused"].start + 4 * 4 * 4])
    assert torch.equal(Piece(found["fused"], rows=slice(2, 4)).read(torch.float32), matrix[2:4])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_of_number_is_read_as_it_was_written(tmp_path, kind):
    written = (torch.rand(3, 5) * 10).to(kind)
    save_file({"one": written, "none": written[:0], "number": written[0, 0].clone()}, tmp_path / "one.safetensors")
    found = contents(tmp_path / "one.safetensors")
    for name, wanted in {"one": written, "none": written[:0], "number": written[0, 0]}.items():
        read = found[name].read()
        assert read.dtype == wanted.dtype and torch.equal(read.float(), wanted.float())


def test_weights_without_a_place_and_places_without_a_weight_are_named(pieces):
    check(empty(), pieces)
    with pytest.raises(ModelError, match="1 of .* weights are missing, x_embedder.weight the first"):
        check(empty(), {name: one for name, one in pieces.items() if name != "x_embedder.weight"})
    with pytest.raises(ModelError, match="no place for 1 of its weights, other.weight the first"):
        check(empty(), {**pieces, "other.weight": pieces["x_embedder.weight"]})
