"""Runs that train all weights of the model: what comes out, what is kept exactly, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import house
import pytest
import tiny
import torch
import yaml
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file
from training.test_step import batch

from simpletuner.building import build_trainer
from simpletuner.errors import CheckpointError, ConfigError
from simpletuner.models.family import Compute
from simpletuner.models.trained import parameters_of
from simpletuner.models.whole import Whole
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded, StepDone
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

FULL = {"model_type": "full", "lora_rank": None, "flux_lora_target": None, "learning_rate": 1e-3}
DRAW = {
    "validation_disable": False,
    "validation_prompt": "a red circle",
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 1,
    "validation_disable_unconditional": True,
}


def _write(folder: Path, pictures: Path, **options: object) -> Path:
    return house.write_run(folder, [house.data_set("subject", pictures)], **{**FULL, **options})


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def _drawn(model: Path, transformer: FluxTransformer2DModel | None) -> torch.Tensor:
    given = {} if transformer is None else {"transformer": transformer}
    pipeline = FluxPipeline.from_pretrained(model, torch_dtype=torch.float32, **given)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        "a red circle",
        width=64,
        height=64,
        num_inference_steps=2,
        max_sequence_length=24,
        output_type="latent",
        generator=torch.Generator().manual_seed(1),
    )
    images: torch.Tensor = made.images
    return images


def test_a_full_run_leaves_a_transformer_that_stock_diffusers_draws_with(tmp_path, model, pictures) -> None:
    """Every weight has moved, the pictures are others, and the card says how to use it."""
    outcome, _ = house.run(_write(tmp_path, pictures, **DRAW), model)

    assert outcome.adapter == outcome.folder / "transformer"
    loaded = FluxTransformer2DModel.from_pretrained(outcome.folder, subfolder="transformer")
    base = FluxTransformer2DModel.from_pretrained(model, subfolder="transformer").state_dict()
    assert all(not torch.equal(one, base[name]) for name, one in loaded.state_dict().items())
    assert not torch.equal(_drawn(model, loaded), _drawn(model, None))
    card = outcome.card.read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert "lora" not in header["tags"] and "load_lora_weights" not in card
    assert 'FluxTransformer2DModel.from_pretrained(\n    "your-name/simpletuner", subfolder="transformer"' in card
    assert "- trained: `all weights`" in card


def test_the_file_tells_what_it_is_and_nothing_of_an_adapter(tmp_path, model, pictures) -> None:
    """A whole model is called as its base by modelspec."""
    outcome, _ = house.run(_write(tmp_path, pictures, max_train_steps=1), model)

    file = outcome.adapter / "diffusion_pytorch_model.safetensors"
    told = file.read_bytes()
    header = json.loads(told[8 : 8 + int.from_bytes(told[:8], "little")])["__metadata__"]
    assert header["modelspec.architecture"] == "flux-1-dev"
    assert not [name for name in header if name.startswith("ss_network_")]
    assert header["format"] == "pt" and header["global_step"] == "1"


EVERYTHING = {
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "caption_dropout_probability": 0.3,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "checkpoint_step_interval": 3,
    "tread_config": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": -2}]},
}


@pytest.mark.parametrize(
    ("optimizer", "precision", "trained", "result"),
    [
        ("adamw", "no", torch.float32, torch.float32),
        pytest.param("adamw", "bf16", torch.float32, torch.bfloat16, marks=pytest.mark.slow),
        ("adamw_bf16", "bf16", torch.bfloat16, torch.bfloat16),
    ],
)
def test_three_steps_and_three_more_are_six_steps(
    tmp_path, model, pictures, optimizer: str, precision: str, trained: torch.dtype, result: torch.dtype
) -> None:
    """Weights are trained in float32 unless the optimizer is made for bf16 ones; the result has the run's precision."""
    options = {**EVERYTHING, "optimizer": optimizer, "mixed_precision": precision}
    unbroken, heard = house.run(_write(tmp_path / "whole", pictures, **options), model)
    path = _write(tmp_path / "broken", pictures, **options)
    first, _ = house.run(path, model)
    shutil.rmtree(first.folder / "checkpoint-6")
    shutil.rmtree(first.adapter)

    resumed, second = house.run(path, model)

    assert [one.loss for one in _steps(second)] == [one.loss for one in _steps(heard)][3:]
    for place in ("checkpoint-6/transformer", "transformer"):
        expected, found = _weights(unbroken.folder / place), _weights(resumed.folder / place)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert {one.dtype for one in found.values()} == {trained if "checkpoint" in place else result}


def _steps(heard: Recorded) -> list[StepDone]:
    return [event for event in heard.events if isinstance(event, StepDone)]


def test_loss_and_the_gradient_of_every_weight_equal_an_independent_computation(tmp_path, model, pictures) -> None:
    """In float64, with diffusers' own packing and autograd on another copy of the network."""
    config = house.resolved(_write(tmp_path, pictures, flow_schedule_shift=3.0), model)
    runtime = Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    runtime = replace(runtime, compute=Compute(runtime.device, torch.float64))
    made = build_trainer(config, prepared, Checkpoints(tmp_path / "output", 0), runtime, Recorded())
    ours, other, one = tiny.denoiser(), tiny.flux(), batch()
    for module in (ours.module, other):
        module.double().requires_grad_(True)
    whole = Whole(ours.module)

    loss = replace(made.learning, denoiser=ours, trained=whole).loss(one)
    loss.backward()

    sigma = torch.sigmoid(one.normal)
    sigma = 3 * sigma / (1 + 2 * sigma)
    share = sigma.double().view(-1, 1, 1, 1)
    noisy = (1 - share) * one.latents + share * one.noise
    size, channels, height, width = noisy.shape
    answer = other(
        hidden_states=FluxPipeline._pack_latents(noisy, size, channels, height, width),
        timestep=sigma,
        guidance=torch.ones(2),
        pooled_projections=one.conditioning["pooled_prompt_embeds"],
        encoder_hidden_states=one.conditioning["prompt_embeds"],
        txt_ids=torch.zeros(tiny.TEXT, 3, dtype=torch.float64),
        img_ids=FluxPipeline._prepare_latent_image_ids(size, height // 2, width // 2, "cpu", torch.float64),
    ).sample
    answer = FluxPipeline._unpack_latents(answer, height * 8, width * 8, 8)
    expected = ((answer - (one.noise - one.latents)) ** 2).mean()
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)
    gradients = {name: parameter.grad for name, parameter in other.named_parameters()}
    assert parameters_of(whole).keys() == gradients.keys()
    for name, parameter in parameters_of(whole).items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12)


def test_the_pictures_of_the_base_are_those_of_the_base_also_when_a_resumed_run_draws_them(
    tmp_path, model, pictures
) -> None:
    """They are drawn before the first step, and before a checkpoint is put back."""
    path = _write(tmp_path, pictures, max_train_steps=2, **DRAW)
    outcome, _ = house.run(path, model)
    (base,) = (outcome.folder / "benchmarks").rglob("*.png")
    first = base.read_bytes()
    drawn = next((outcome.folder / "validation_images").glob("step_2_validation_*.png"))
    assert drawn.read_bytes() != first
    shutil.rmtree(outcome.folder / "benchmarks")

    house.run(path, model, "max_train_steps=3")

    assert base.read_bytes() == first


def test_what_was_trained_is_a_base_for_the_next_run(tmp_path, model, pictures) -> None:
    """Under the option for another transformer, the output folder is such a place."""
    outcome, _ = house.run(_write(tmp_path / "full", pictures, max_train_steps=1), model)
    path = house.write_run(
        tmp_path / "lora",
        [house.data_set("subject", pictures)],
        max_train_steps=1,
        pretrained_transformer_model_name_or_path=str(outcome.folder),
    )

    trained, _ = house.run(path, model)

    assert trained.adapter.is_file()


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True, "gradient_checkpointing_backend": "unsloth"},
        {"fused_backward_pass": True, "grad_clip_method": "value"},
        pytest.param({"dynamo_backend": "eager"}, marks=pytest.mark.slow),
    ],
    ids=["checkpointing", "fused", "compiled"],
)
def test_options_that_save_memory_or_time_train_the_same_weights(tmp_path, model, pictures, options) -> None:
    """Bit for bit, as they do for an adapter."""
    plain = {"max_train_steps": 2, "grad_clip_method": "value"}
    one, _ = house.run(_write(tmp_path / "plain", pictures, **plain), model)

    other, _ = house.run(_write(tmp_path / "other", pictures, **{**plain, **options}), model)

    expected, found = _weights(one.adapter), _weights(other.adapter)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (
            {"lora_rank": 8},
            "lora_rank: is about an adapter, and model_type full trains none; leave it out, or use lora",
        ),
        ({"lora_type": "lycoris"}, "lora_type: is about an adapter"),
        ({"init_lora": "some.safetensors"}, "init_lora: is about an adapter"),
        ({"base_model_precision": "int8-quanto"}, "base_model_precision: 'int8-quanto' packs the weights, and packed"),
        ({"enable_group_offload": True}, "enable_group_offload: keeps frozen weights off the card, and model_type"),
        ({"fuse_qkv_projections": True}, "fuse_qkv_projections: does not go together with model_type full"),
    ],
)
def test_what_needs_an_adapter_or_frozen_weights_is_refused(tmp_path, model, pictures, options, refusal: str) -> None:
    """Before anything is loaded, with what to change."""
    with pytest.raises(ConfigError, match=refusal):
        house.resolved(_write(tmp_path, pictures, **options), model)


def test_regularisation_data_is_refused_as_there_is_no_base_to_compare_with(tmp_path, model, pictures) -> None:
    """It would silently be trained on as any other data."""
    path = house.write_run(tmp_path, [house.data_set("regular", pictures, is_regularisation_data=True)], **FULL)

    with pytest.raises(ConfigError, match="regular.*is_regularisation_data.* gone after the first step"):
        house.resolved(path, model)


def test_base_adapters_become_part_of_what_is_trained(tmp_path, model, pictures) -> None:
    """An adapter is merged into the weights that training begins with."""
    lora = house.write_run(tmp_path / "lora", [house.data_set("subject", pictures)], max_train_steps=2)
    adapter = house.run(lora, model)[0].adapter

    plain = house.run(_write(tmp_path / "plain", pictures, max_train_steps=1), model)[0]
    merged = house.run(_write(tmp_path / "on", pictures, max_train_steps=1, base_adapters=[str(adapter)]), model)[0]

    name = "transformer_blocks.0.attn.to_q.weight"
    far = (_weights(merged.adapter)[name] - _weights(plain.adapter)[name]).abs().max()
    assert far > 0.005  # one step moves a weight by 0.001


def test_a_checkpoint_of_the_other_type_is_refused(tmp_path, model, pictures) -> None:
    """An adapter is no model, and the other way round."""
    path = _write(tmp_path, pictures, max_train_steps=1)
    house.run(path, model)

    with pytest.raises((CheckpointError, ConfigError)):
        house.run(path, model, "model_type=lora", "max_train_steps=2")


def test_a_killed_write_leaves_the_checkpoint_before_it(tmp_path, model, pictures) -> None:
    """A checkpoint whose weights were cut off is passed over for the one before."""
    path = _write(tmp_path, pictures, max_train_steps=4, checkpoint_step_interval=2)
    outcome, _ = house.run(path, model)
    os.truncate(outcome.folder / "checkpoint-4" / "transformer" / "diffusion_pytorch_model.safetensors", 1000)

    _, heard = house.run(path, model)

    assert any("checkpoint-4 is passed over: transformer/diffusion_pytorch_model" in text for text in heard.texts())
    assert [one.step for one in _steps(heard)] == [3, 4]
