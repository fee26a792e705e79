"""An adapter at another strength: how much of it acts for a moment, and that nothing of that moment stays."""

from __future__ import annotations

import pytest
import tiny
import torch
from models.test_lora_variants import VARIANTS, attached, disturb
from models.test_lycoris import attached as lycoris
from models.test_lycoris import disturb as disturb_lycoris

from simpletuner.models.adapters.adapter import AdapterFile
from simpletuner.models.adapters.lora_state import lora_layers
from simpletuner.models.adapters.lycoris_settings import ALGORITHMS

LAYER = "transformer_blocks.0.attn.to_q"
ON_PACKED = [("mixed", "int8-quanto"), ("dora", "int8-quanto"), ("pissa", "nf4-bnb")]
EVERYWHERE = [(algo, precision) for algo in ALGORITHMS for precision in ("no_change", "int8-quanto")]


def answer(denoiser) -> torch.Tensor:
    with torch.no_grad():
        return denoiser.predict(**tiny.inputs())


def of_layer(denoiser) -> torch.Tensor:
    layer = denoiser.module.get_submodule(LAYER)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return layer(torch.randn(5, 32, generator=random))


def smaller(state, share: float):
    """The same adapter with its second matrices made smaller, and all else as it was."""
    return {name: tensor * share if ".lora_B" in name else tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize(("variant", "precision"), [*((one, "no_change") for one in VARIANTS), *ON_PACKED])
def test_half_of_a_lora_is_one_whose_second_matrices_are_half_as_large(variant: str, precision: str) -> None:
    denoiser, adapter = attached(precision=precision, **VARIANTS[variant])
    disturb(adapter)
    usual = answer(denoiser)
    found = {}
    for strength in (0.5, 2.0, -1.0, 0.3):
        with AdapterFile(adapter).at(strength):
            found[strength] = answer(denoiser)
    assert torch.equal(answer(denoiser), usual)
    for strength, expected in found.items():
        other_denoiser, other = attached(precision=precision, seed=8, **VARIANTS[variant])
        other.load(smaller(adapter.state(), strength))
        if strength in (0.5, 2.0, -1.0):  # in binary numbers, these multiply without rounding
            assert torch.equal(answer(other_denoiser), expected)
        torch.testing.assert_close(answer(other_denoiser), expected, rtol=0, atol=1e-4)
        assert not torch.equal(expected, usual)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_of_a_lora_is_the_base_and_all_of_it_is_as_trained(variant: str) -> None:
    denoiser, adapter = attached(**VARIANTS[variant])
    disturb(adapter)
    usual, whole = answer(denoiser), AdapterFile(adapter)
    with whole.at(0):
        assert torch.equal(answer(denoiser), answer(tiny.denoiser()))
    with whole.at(1):
        assert torch.equal(answer(denoiser), usual)
    assert torch.equal(answer(denoiser), usual)


@pytest.mark.parametrize("strength", [0.0, 0.1, 3.0])
def test_a_lora_is_back_bit_for_bit_when_something_goes_wrong_meanwhile(strength: float) -> None:
    """A scaling of 1/3 times 0.1 divided by 0.1 would be another number."""
    denoiser, adapter = attached(rank=6)
    disturb(adapter)
    usual = answer(denoiser)
    before = [dict(layer.scaling) for layer in lora_layers(denoiser.module).values()]
    with pytest.raises(ZeroDivisionError), AdapterFile(adapter).at(strength):
        assert not torch.equal(answer(denoiser), usual)
        raise ZeroDivisionError
    assert [dict(layer.scaling) for layer in lora_layers(denoiser.module).values()] == before
    assert torch.equal(answer(denoiser), usual)


@pytest.mark.parametrize("more", [{}, {"multiplier": 0.7}])
@pytest.mark.parametrize(("algo", "precision"), EVERYWHERE)
def test_every_kind_of_lycoris_goes_straight_from_the_base_to_what_was_trained(
    algo: str, precision: str, more: dict[str, float]
) -> None:
    """What a layer says at a strength is on the line through what it says without and with the whole adapter.

    Each turn of BOFT follows on another, and each takes only this share of itself: no line, but what the package means.
    """
    if algo == "boft" and more:
        return
    denoiser, adapter = lycoris(algo=algo, precision=precision, **more)
    disturb_lycoris(adapter)
    usual, full, whole = answer(denoiser), of_layer(denoiser), AdapterFile(adapter)
    plain = lycoris(algo=algo, precision=precision)
    with whole.at(0), plain[1].without():
        none = of_layer(denoiser)
        assert torch.equal(answer(denoiser), answer(plain[0]))
    for strength in (0.5, 1.0, 1.7, -1.0):
        with whole.at(strength):
            found = of_layer(denoiser)
        if algo == "boft":
            other_denoiser, other = lycoris(algo=algo, precision=precision)
            disturb_lycoris(other)
            other.network.set_multiplier(strength)
            assert torch.equal(of_layer(other_denoiser), found)
        else:
            torch.testing.assert_close(found, none + strength * (full - none), rtol=0, atol=2e-5)
    assert float((full - none).abs().max()) > 1e-3
    with whole.at(1):
        assert torch.equal(answer(denoiser), usual)
    with pytest.raises(ZeroDivisionError), whole.at(0.1):
        raise ZeroDivisionError
    assert torch.equal(answer(denoiser), usual)


@pytest.mark.parametrize("strength", [0.5, 1.7])
def test_a_rescaled_rotation_is_the_same_on_a_plain_and_on_a_packed_base(strength: float) -> None:
    """The package turns the bias too where the base is packed, so that a layer without one is compared."""
    found = []
    for bypass in (False, True):
        denoiser, adapter = lycoris(algo="diag-oft", rescaled=True, bypass_mode=bypass)
        disturb_lycoris(adapter)
        denoiser.module.get_submodule(LAYER).bias.data.zero_()
        with AdapterFile(adapter).at(strength):
            found.append(of_layer(denoiser))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-5)
