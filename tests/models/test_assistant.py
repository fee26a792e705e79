"""A helping adapter acts while training, also beside a switched-off adapter, and leaves nothing behind."""

from functools import partial

import pytest
import tiny
import torch

from simpletuner.errors import ModelError
from simpletuner.models import assistant
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.formats.files import encode
from simpletuner.models.adapters.formats.neutral import Lora, LowRank
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.assistant import Assistant
from simpletuner.models.flux.denoiser import FluxDenoiser

NAMES = ("transformer_blocks.1.attn.to_q", "single_transformer_blocks.2.proj_mlp")


def weights(inputs=32, outputs=(32, 128)):
    random = torch.Generator().manual_seed(6)
    draw = partial(torch.randn, generator=random, dtype=torch.float32)
    sizes = zip(NAMES, outputs, strict=True)
    return {name: LowRank(draw(3, inputs), draw(size, 3), 1.5) for name, size in sizes}


@pytest.fixture
def file(tmp_path):
    """A small adapter for two layers of the tiny transformer, whose alpha is not its rank."""
    path = tmp_path / "helper.safetensors"
    path.write_bytes(encode(Lora({f"transformer.{name}": one for name, one in weights().items()}), "comfyui", {}))
    return path


def merged(strength):
    """The transformer with the same adapter in its weights."""
    module = tiny.flux()
    for name, one in weights().items():
        module.get_submodule(name).weight.data += strength * one.delta()
    return FluxDenoiser(module)


def helped(file, **strengths):
    denoiser = tiny.denoiser()
    assistant.attach(denoiser.module, Assistant(str(file), **strengths), torch.float32)
    return denoiser


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_it_is_in_the_weights_while_training_and_gone_in_validation(file, strength):
    denoiser, given = helped(file, strength=strength), tiny.inputs()
    denoiser.module.train()
    assert torch.allclose(denoiser.predict(**given), merged(strength).predict(**given), atol=1e-5)
    denoiser.module.eval()
    assert torch.equal(denoiser.predict(**given), tiny.denoiser().predict(**given))


def test_its_strength_in_validation_can_be_another(file):
    denoiser, given = helped(file, inference_strength=0.25), tiny.inputs()
    denoiser.module.eval()
    assert torch.allclose(denoiser.predict(**given), merged(0.25).predict(**given), atol=1e-5)


def test_it_stays_at_work_when_the_trained_adapter_is_switched_off(file):
    denoiser, given = helped(file), tiny.inputs()
    adapter = lora.attach(denoiser.module, LoraPlan(("to_q", "to_k"), 3, 2.0), torch.float32, 3)
    for parameter in lora.trainable(denoiser.module).values():
        parameter.data.fill_(0.1)
    denoiser.module.train()
    with adapter.without():
        assert torch.allclose(denoiser.predict(**given), merged(1.0).predict(**given), atol=1e-5)
    assert not torch.allclose(denoiser.predict(**given), merged(1.0).predict(**given), atol=1e-5)


def test_it_is_neither_trained_nor_saved(file):
    denoiser = helped(file)
    lora.attach(denoiser.module, LoraPlan(("to_q",), 3, 2.0), torch.float32, 3)
    assert all("assistant" not in name for name in lora.trainable(denoiser.module))
    assert all("assistant" not in name for name in denoiser.module.state_dict())
    assert all("assistant" not in name for name in lora.adapter_state(denoiser.module))


def test_an_adapter_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(encode(Lora({"transformer.x_embedder": weights()[NAMES[0]]}), "diffusers", {}))
    with pytest.raises(ModelError, match="'x_embedder' has 64 inputs"):
        helped(path)


def test_an_adapter_that_cannot_be_fetched_is_told_with_its_option(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="or let assistant_lora_path name what is on this machine"):
        helped("you/helper")
