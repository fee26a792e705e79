"""An entry comes back to the bit, or it is known to be damaged."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from simpletuner.caching.entries import DamagedBytes, check, packed, recipe_of, unpacked


def tensors():
    random = torch.Generator().manual_seed(0)
    return {"mean": torch.randn(4, 3, 3, generator=random), "half": torch.randn(6, 5, generator=random).bfloat16()}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_tensors_come_back_to_the_bit():
    assert same(unpacked(packed(tensors(), "recipe")), tensors())


def test_equal_tensors_are_equal_bytes():
    assert len({packed(tensors(), "recipe") for _ in range(20)}) == 1


def test_an_entry_says_what_made_it():
    recipe = 'an "encoder"/é\n'
    assert recipe_of(packed(tensors(), recipe)) == recipe


def test_any_program_that_reads_safetensors_reads_an_entry():
    assert same(load(packed(tensors(), "recipe")), tensors())


def test_every_single_flipped_bit_is_found():
    whole = packed({"x": torch.arange(6.0)}, "recipe")
    for place in range(len(whole)):
        for bit in range(8):
            harmed = bytearray(whole)
            harmed[place] ^= 1 << bit
            with pytest.raises(DamagedBytes):
                check(bytes(harmed))


def test_every_truncation_and_every_surplus_is_found():
    whole = packed(tensors(), "recipe")
    for length in range(len(whole)):
        with pytest.raises(DamagedBytes):
            unpacked(whole[:length])
    with pytest.raises(DamagedBytes, match="checksum"):
        unpacked(whole + b"\x00")
    check(whole)


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"\xff" * 100, b"not an entry at all", bytes(7)])
def test_what_never_was_an_entry_is_refused(data):
    with pytest.raises(DamagedBytes):
        unpacked(data)


def test_a_plain_safetensors_file_is_no_entry():
    from safetensors.torch import save

    with pytest.raises(DamagedBytes, match="beginning"):
        unpacked(save(tensors()))


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]))
def test_rows_of_zeros_at_the_end_cost_nothing_and_come_back(filled, dtype):
    matrix = torch.ones(len(filled), 40).to(dtype) * torch.tensor(filled)[:, None].to(dtype)
    data = packed({"x": matrix}, "recipe")
    assert same(unpacked(data), {"x": matrix})
    kept = load(data)["x"]
    last = max((place for place, is_filled in enumerate(filled) if is_filled), default=0)
    assert len(kept) == last + 1


def test_a_negative_zero_is_not_a_zero_to_the_bit():
    matrix = torch.tensor([[1.0], [-0.0]])
    found = unpacked(packed({"x": matrix}, "recipe"))["x"]
    assert torch.signbit(found[1, 0])


def test_only_matrices_are_shortened():
    odd = {
        "scalar": torch.tensor(0.0),
        "vector": torch.zeros(5),
        "cube": torch.zeros(2, 2, 2),
        "none": torch.zeros(0, 3),
    }
    assert same(load(packed(odd, "recipe")), odd)
