"""Parts of FLUX.1 from folders and shards are the parts that were stored, and what is not whole is not loaded."""

import json
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from single_files import assert_equal, assert_same_words

from simpletuner.errors import ModelError
from simpletuner.models.family import Compute
from simpletuner.models.flux.loading import load_autoencoder, load_clip, load_t5, load_transformer

CPU = Compute(torch.device("cpu"), torch.float32)
BF16 = Compute(torch.device("cpu"), torch.bfloat16)


def test_a_folder_gives_what_diffusers_loads_from_it(model):
    for compute in (CPU, BF16):
        stock = FluxTransformer2DModel.from_pretrained(model, subfolder="transformer", dtype=compute.dtype)
        found = load_transformer(tiny.weights(model), compute)
        assert_equal(found, stock)
        own, theirs = dict(found.config), dict(stock.config)
        assert {name: own[name] for name in own if name[0] != "_"} == {n: theirs[n] for n in theirs if n[0] != "_"}
        assert not found.training and not any(one.requires_grad for one in found.parameters())


def test_the_text_encoders_of_a_folder_say_what_stock_ones_say(model):
    stock = FluxPipeline.from_pretrained(model, transformer=None, vae=None, dtype=torch.float32)
    weights = tiny.weights(model)
    clip, t5 = load_clip(str(model), weights, torch.float32), load_t5(str(model), weights, torch.float32)
    assert_equal(clip, stock.text_encoder)
    assert_equal(t5, stock.text_encoder_2)
    own = FluxPipeline(None, None, clip, stock.tokenizer, t5, stock.tokenizer_2, None)
    assert_same_words(own, stock)


def test_the_autoencoder_of_a_folder_is_the_stock_one(model):
    assert_equal(
        load_autoencoder(tiny.weights(model), CPU),
        AutoencoderKL.from_pretrained(model, subfolder="vae", dtype=torch.float32),
    )


def sharded(model, folder):
    """A copy of the model whose transformer lies in several shards."""
    shutil.copytree(model, folder)
    stock = FluxTransformer2DModel.from_pretrained(model, subfolder="transformer")
    shutil.rmtree(folder / "transformer")
    stock.save_pretrained(folder / "transformer", max_shard_size="1MB")
    return stock


def test_shards_are_joined(model, tmp_path):
    stock = sharded(model, tmp_path / "model")
    assert len(list((tmp_path / "model" / "transformer").glob("*.safetensors"))) > 2
    assert_equal(load_transformer(tiny.weights(tmp_path / "model"), CPU), stock)


def test_blocks_are_packed_one_after_the_other_while_the_next_are_still_empty(model):
    seen = []

    def pack(block):
        assert not any(one.is_meta for one in block.parameters())
        seen.append(type(block).__name__)

    found = load_transformer(tiny.weights(model), CPU, pack)
    assert seen == [type(one).__name__ for one in (*found.transformer_blocks, *found.single_transformer_blocks)]


def test_a_missing_shard_is_found_before_anything_is_loaded(model, tmp_path):
    sharded(model, tmp_path / "model")
    victim = sorted((tmp_path / "model" / "transformer").glob("*.safetensors"))[-1]
    victim.unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of .* weight files: {victim.name}. Download it again"):
        load_transformer(tiny.weights(tmp_path / "model"), CPU, pytest.fail)


def test_a_shard_that_ends_too_early_is_found_before_anything_is_loaded(model, tmp_path):
    sharded(model, tmp_path / "model")
    victim = sorted((tmp_path / "model" / "transformer").glob("*.safetensors"))[-1]
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ModelError, match=f"{victim.name} ends too early.*nothing was loaded"):
        load_transformer(tiny.weights(tmp_path / "model"), CPU, pytest.fail)


def test_a_folder_with_pickles_alone_is_refused(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    weights = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="is a pickle"):
        load_transformer(tiny.weights(tmp_path / "model"), CPU)


def test_weights_that_belong_to_another_config_are_named(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model" / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "joint_attention_dim": 32}))
    with pytest.raises(ModelError, match=r"context_embedder.weight has shape \(128, 64\) where \(128, 32\)"):
        load_transformer(tiny.weights(tmp_path / "model"), CPU)


def test_a_variant_is_taken_where_one_is_named(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    folder = tmp_path / "model" / "transformer"
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file({name: one * 2 for name, one in state.items()}, folder / "diffusion_pytorch_model.fp16.safetensors")
    weights = tiny.weights(tmp_path / "model")
    plain, variant = (load_transformer(one, CPU).state_dict() for one in (weights, replace(weights, variant="fp16")))
    assert all(torch.equal(variant[name], plain[name] * 2) for name in plain)
    with pytest.raises(ModelError, match="has no weights of the variant 'bf16'"):
        load_transformer(replace(weights, variant="bf16"), CPU)
