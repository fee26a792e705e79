"""Packed weights on disk are those that packing gives, and packing happens once."""

from dataclasses import replace
from functools import partial

import house
import pytest
import tiny
import torch

from simpletuner.models.family import Compute
from simpletuner.models.flux.loading import load_transformer
from simpletuner.models.kept import Kept
from simpletuner.models.kept import recipe as packed_recipe
from simpletuner.models.precision import PRECISIONS, recipe

CPU = Compute(torch.device("cpu"), torch.float32)


def packing(name):
    return lambda block: PRECISIONS[name](block, [block])


def kept(folder, weights, name):
    return Kept(folder, packed_recipe(weights, CPU, recipe(name)), packing(name))


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_second_start_finds_what_the_first_one_packed(model, tmp_path, name):
    weights = tiny.weights(model)
    first, second = (load_transformer(weights, CPU, pack, kept(tmp_path, weights, name))
                     for pack in (packing(name), pytest.fail))  # fmt: skip
    assert first.state_dict().keys() == second.state_dict().keys()
    for key, one in first.state_dict().items():
        other = second.state_dict()[key]
        assert one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8)), key
    assert not any(one.is_meta or one.requires_grad for one in second.parameters())
    assert [type(one) for one in first.modules()] == [type(one) for one in second.modules()]


def test_packing_while_loading_is_packing_afterwards(model):
    weights = tiny.weights(model)
    streamed, whole = load_transformer(weights, CPU, packing("int8-quanto")), load_transformer(weights, CPU)
    PRECISIONS["int8-quanto"](whole, [*whole.transformer_blocks, *whole.single_transformer_blocks])
    assert all(torch.equal(one, whole.state_dict()[name]) for name, one in streamed.state_dict().items())


def test_another_precision_or_other_weights_have_another_place(model, tmp_path):
    weights = tiny.weights(model)
    places = {kept(tmp_path, weights, name).place for name in ("int8-quanto", "int4-quanto")}
    bf16 = packed_recipe(weights, Compute(torch.device("cpu"), torch.bfloat16), recipe("int8-quanto"))
    places.add(Kept(tmp_path, bf16, packing("int8-quanto")).place)
    assert len(places) == 3


def test_another_revision_variant_or_folder_of_a_repository_has_another_place(model):
    weights = replace(tiny.weights(model), transformer="you/flux")
    others = ({}, {"revision": "abc"}, {"variant": "fp16"}, {"transformer_subfolder": "other"})
    found = {packed_recipe(replace(weights, **other), CPU, recipe("int8-quanto")) for other in others}
    assert len(found) == len(others)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes((file.parent / "single_transformer_blocks.1.safetensors").read_bytes()),
    ],
    ids=["a file that ends too early", "a file of another block"],
)
def test_what_is_damaged_is_packed_again(model, tmp_path, spoil):
    weights = tiny.weights(model)
    place = kept(tmp_path, weights, "int8-quanto")
    load = partial(load_transformer, weights, CPU, kept=place)
    first = load(packing("int8-quanto"))
    spoil(place.place / "transformer_blocks.1.safetensors")
    packed = []
    second = load(lambda block: (packed.append(block), packing("int8-quanto")(block)))
    assert len(packed) == 7
    assert all(torch.equal(one, second.state_dict()[name]) for name, one in first.state_dict().items())
    load(pytest.fail)


def test_a_place_that_cannot_be_written_does_not_end_the_run(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    weights = tiny.weights(model)
    with house.heard("simpletuner.models.kept") as told:
        found = load_transformer(weights, CPU, packing("int8-quanto"), kept(tmp_path / "file", weights, "int8-quanto"))
    assert not any(one.is_meta for one in found.parameters())
    assert "packed weights could not be kept" in told.getvalue()
