"""An adapter that is worn for a moment acts as if it were in the weights, and leaves no trace."""

from pathlib import Path

import pytest
import tiny
import torch

from simpletuner.errors import ModelError
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.dropout import Dropout
from simpletuner.models.adapters.formats.files import encode
from simpletuner.models.adapters.formats.neutral import Lora, LowRank
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.merging import BaseAdapter, merge
from simpletuner.models.precision import PRECISIONS
from simpletuner.models.worn import wearing

NAME = "transformer_blocks.1.attn.to_q"
TRAINED = LoraPlan(("to_q", "to_k"), 3, 2.0, Dropout())


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A plain LoRA for one layer of the tiny transformer, whose alpha is not its rank."""
    random = torch.Generator().manual_seed(6)
    layer = LowRank(torch.randn(3, 32, generator=random), torch.randn(32, 3, generator=random), 1.5)
    path = tmp_path / "worn.safetensors"
    path.write_bytes(encode(Lora({f"transformer.{NAME}": layer}), "comfyui", {}))
    return str(path)


def seen(denoiser: object) -> torch.Tensor:
    with torch.no_grad():
        return denoiser.predict(**tiny.inputs())


def trained(denoiser: object) -> object:
    """The network with a trained adapter that does something."""
    lora.attach(denoiser.module, TRAINED, torch.float32, 3)
    random = torch.Generator().manual_seed(5)
    for name, parameter in denoiser.module.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=random) * 0.1
    return denoiser


@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_it_acts_as_if_it_were_in_the_weights_beside_what_is_trained(file: str, strength: float) -> None:
    merged, denoiser = tiny.denoiser(), trained(tiny.denoiser())
    before = seen(denoiser)
    merge(merged.module, [BaseAdapter(file, strength)])
    with wearing(denoiser.module, [BaseAdapter(file, strength)]):
        torch.testing.assert_close(seen(denoiser), seen(trained(merged)), rtol=0, atol=1e-5)
        assert not torch.allclose(seen(denoiser), before, atol=1e-3)
    assert torch.equal(seen(denoiser), before)


def test_two_are_worn_at_once_on_packed_weights(file: str) -> None:
    found = []
    for adapters in ([BaseAdapter(file, 0.5), BaseAdapter(file, 0.25)], [BaseAdapter(file, 0.75)]):
        denoiser = tiny.denoiser()
        PRECISIONS["int8-quanto"](denoiser.module, denoiser.blocks)
        with wearing(denoiser.module, adapters):
            found.append(seen(denoiser))
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_it_is_taken_off_when_drawing_fails(file: str) -> None:
    denoiser = tiny.denoiser()
    before = seen(denoiser)
    with pytest.raises(RuntimeError), wearing(denoiser.module, [BaseAdapter(file)]):
        raise RuntimeError
    assert torch.equal(seen(denoiser), before)


def test_dora_cannot_be_worn(tmp_path: Path) -> None:
    layer = LowRank(torch.ones(3, 32), torch.ones(32, 3), 1.5, torch.ones(32))
    path = tmp_path / "dora.safetensors"
    path.write_bytes(encode(Lora({f"transformer.{NAME}": layer}), "diffusers", {}))
    with (
        pytest.raises(ModelError, match="is no plain LoRA of the transformer"),
        wearing(tiny.flux(), [BaseAdapter(str(path))]),
    ):
        pass
