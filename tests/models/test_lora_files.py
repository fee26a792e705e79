"""LoRA files: stock diffusers and ours read each other's, and what cannot be read says why."""

import json

import adapters
import peft
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_xlabs_flux_lora_to_diffusers,
)
from diffusers.training_utils import _collate_lora_metadata
from safetensors.torch import load, save_file
from torch import nn

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats import FORMATS, decode
from simpletuner.models.adapters.formats.comparing import compare
from simpletuner.models.adapters.formats.files import encode, kept, read_adapter
from simpletuner.models.adapters.formats.fitting import check_fit, shapes
from simpletuner.models.adapters.formats.neutral import Lora

LINEAR1 = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


def lora_for(pipeline, *, fused_singles=True, rank=lambda number: 3, alpha=lambda number: 2.0, magnitude=False):
    """A LoRA on every layer of a pipeline that diffusers can load one for."""
    random = torch.Generator().manual_seed(4)
    known = {f"transformer.{name}": shape for name, shape in shapes(pipeline.transformer).items()}
    for name, shape in shapes(pipeline.text_encoder).items():
        known[f"text_encoder.text_model.{name.removeprefix('text_model.')}"] = shape
    # Stock diffusers takes a single block of 3072 columns for granted, and drops what lies around the blocks.
    kept = [name for name in known if fused_singles or not (name.startswith("transformer.single") and one_of(name))]
    kept = [name for name in kept if fused_singles or "blocks." in name or name.startswith("text_encoder.")]
    layers = {
        name: adapters.low_rank(known[name], rank(number), alpha(number), random, magnitude=magnitude)
        for number, name in enumerate(kept)
    }
    return Lora({name: small(layer) for name, layer in layers.items()})


def one_of(name):
    return name.endswith(LINEAR1)


def small(layer):
    return type(layer)(layer.down * 0.1, layer.up * 0.1, layer.alpha, layer.magnitude)


def weights(pipeline):
    parts = {"transformer": pipeline.transformer, "text_encoder": pipeline.text_encoder}
    return {
        f"{part}.{name}": one.weight.detach().clone()
        for part, module in parts.items()
        for name, one in module.named_modules()
        if isinstance(one, nn.Linear) and "lora_" not in name
    }


def effective(weight, layer):
    """What the weight becomes, from the papers: LoRA adds, DoRA then gives every row its own length."""
    whole = weight + layer.up @ layer.down * layer.alpha / len(layer.down)
    return whole if layer.magnitude is None else layer.magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "name, made",
    [
        ("diffusers", {}),
        ("diffusers", {"rank": lambda number: 1 + number % 3, "alpha": lambda number: 5.0}),
        ("diffusers", {"magnitude": True}),
        ("kohya", {"fused_singles": False}),
        ("kohya", {"fused_singles": False, "rank": lambda number: 1 + number % 3}),
        ("comfyui", {"fused_singles": False}),
    ],
)
def test_stock_diffusers_loads_our_files_and_every_weight_becomes_what_it_should(name, made, model, tmp_path):
    pipeline = FluxPipeline.from_pretrained(model, torch_dtype=torch.float32)
    before = weights(pipeline)
    lora = lora_for(pipeline, **made)
    (tmp_path / "lora.safetensors").write_bytes(encode(lora, name, {}))
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    pipeline.fuse_lora(components=["transformer", "text_encoder"])
    pipeline.unload_lora_weights()
    after = weights(pipeline)
    wanted = {adapt(key, after): layer for key, layer in lora.layers.items()}
    assert wanted
    for key, weight in before.items():
        expected = effective(weight, wanted[key]) if key in wanted else weight
        torch.testing.assert_close(after[key], expected, rtol=1e-4, atol=1e-5, msg=lambda said, key=key: key + said)


def adapt(key, known):
    return key if key in known else key.replace("text_encoder.text_model.", "text_encoder.")


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 3},
        {"r": 4, "lora_alpha": 2, "rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_v": 7}},
        {"r": 4, "lora_alpha": 2, "use_rslora": True},
    ],
)
def test_files_that_stock_diffusers_saved_are_read_with_their_scaling(settings, model, tmp_path):
    pipeline = FluxPipeline.from_pretrained(model, torch_dtype=torch.float32)
    config = peft.LoraConfig(target_modules=["to_q", "to_v", "proj_mlp"], init_lora_weights=False, **settings)
    pipeline.transformer.add_adapter(config)
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=peft.get_peft_model_state_dict(pipeline.transformer),
        **_collate_lora_metadata({"transformer": pipeline.transformer}),
    )
    layers = read_adapter(tmp_path).of("transformer")
    made = {
        name: one.get_delta_weight("default")
        for name, one in pipeline.transformer.named_modules()
        if isinstance(one, peft.tuners.lora.Linear)
    }
    assert layers.keys() == made.keys()
    for name, delta in made.items():
        torch.testing.assert_close(layers[name].delta(), delta)


def test_a_folder_that_peft_saved_is_read_with_the_settings_beside_it(model, tmp_path):
    transformer = FluxPipeline.from_pretrained(model, torch_dtype=torch.float32).transformer
    config = peft.LoraConfig(target_modules=["to_k"], r=4, lora_alpha=1, init_lora_weights=False)
    wrapped = peft.get_peft_model(transformer, config)
    wrapped.save_pretrained(tmp_path)
    assert {layer.alpha for layer in read_adapter(tmp_path).layers.values()} == {1.0}


def wide(dtype=torch.float32, rank=2, alpha=lambda number: 2.0):
    """The layers of one double and one single block in their true size."""
    random = torch.Generator().manual_seed(6)
    double = {"attn.to_q": 3072, "attn.to_k": 3072, "attn.to_v": 3072, "attn.to_out.0": 3072, "norm1.linear": 18432}
    single = {"attn.to_q": 3072, "attn.to_k": 3072, "attn.to_v": 3072, "proj_mlp": 12288, "norm.linear": 9216}
    outputs = {
        **{f"transformer.transformer_blocks.0.{name}": size for name, size in double.items()},
        **{f"transformer.single_transformer_blocks.0.{name}": size for name, size in single.items()},
    }
    return Lora(
        {
            name: adapters.low_rank((size, 3072), rank, alpha(number), random, dtype)
            for number, (name, size) in enumerate(outputs.items())
        }
    )


@pytest.mark.parametrize("name", ["kohya", "comfyui"])
def test_diffusers_own_converter_finds_the_same_weights_in_blocks_of_true_size(name):
    lora = wide(alpha=lambda number: 1.0 + number)
    found = _convert_kohya_flux_lora_to_diffusers(load(encode(lora, name, {})))
    assert compare(lora, decode(found, {})).apart == {}


def test_xlabs_files_mean_to_us_what_they_mean_to_diffusers():
    random = torch.Generator().manual_seed(7)
    names = {"double_blocks.0.processor.qkv_lora1": 96, "double_blocks.0.processor.proj_lora2": 32}
    names |= {"single_blocks.0.processor.qkv_lora": 96, "single_blocks.0.processor.proj_lora": 32}
    tensors = {}
    for name, outputs in names.items():
        tensors[f"{name}.down.weight"] = torch.randn(4, 32, generator=random)
        tensors[f"{name}.up.weight"] = torch.randn(outputs, 4, generator=random)
    found = _convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    assert compare(decode(tensors, {}), decode(found, {})).apart == {}


def test_a_file_in_half_precision_grows_only_where_halves_cannot_hold_the_product():
    lora = adapters.adapter(dtype=torch.float16, alpha=lambda number: 2.0)
    assert {one.dtype for one in load(encode(lora, "diffusers", {})).values()} == {torch.float16}
    odd = adapters.adapter(dtype=torch.float16, alpha=lambda number: 3.3)
    tensors = load(encode(odd, "diffusers", {}))
    assert {one.dtype for name, one in tensors.items() if "lora_A" in name} == {torch.float16}
    assert compare(odd, decode(tensors, {})).apart == {}


@pytest.mark.parametrize("name", FORMATS)
def test_equal_adapters_give_equal_files(name):
    one, other = (encode(adapters.adapter(), name, {"b": "2", "a": "1"}) for _ in range(2))
    assert one == other


def test_kohya_files_say_the_rank_and_alpha_most_layers_have(tmp_path):
    lora = adapters.adapter(only=lambda name: "attn.to_out" in name, rank=lambda number: 4 + (number == 1))
    (tmp_path / "lora.safetensors").write_bytes(encode(lora, "kohya", {"modelspec.title": "zorb"}))
    header = read_adapter(tmp_path / "lora.safetensors").header
    assert header["ss_network_dim"] == "4"
    assert header["ss_network_alpha"] == "4"
    assert header["modelspec.title"] == "zorb"


def test_files_that_cannot_be_opened_say_why(tmp_path):
    whole = encode(adapters.adapter(), "kohya", {})
    (tmp_path / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save({"x": torch.ones(1)}, tmp_path / "lora.pt")
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        (tmp_path / "two" / f"{name}.safetensors").write_bytes(whole)
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    said = {
        "short.safetensors": "is no whole safetensors file",
        "lora.pt": "is a pickle, which can run any program",
        "nothing.safetensors": "there is no adapter file",
        "two": "holds several .safetensors files",
        "other.safetensors": "it is no LoRA for Flux: it has no LoRA matrices",
    }
    for name, words in said.items():
        with pytest.raises(ModelError, match=words):
            read_adapter(tmp_path / name)


def test_a_header_whose_length_looks_like_the_start_of_a_pickle_is_none(tmp_path):
    lora = adapters.adapter(only=lambda name: name.endswith("x_embedder"))
    files = (encode(lora, "kohya", {"modelspec.comment": "x" * length}) for length in range(256))
    (tmp_path / "lora.safetensors").write_bytes(next(data for data in files if data[0] == 0x80))
    assert compare(lora, read_adapter(tmp_path / "lora.safetensors")).apart == {}


def test_an_adapter_of_another_shape_is_refused_before_it_is_used():
    lora = adapters.adapter(only=lambda name: name.startswith("transformer."))
    layers = lora.of("transformer")
    known = {name: (one.up.shape[0], one.down.shape[1]) for name, one in layers.items()}
    check_fit(layers, known, "zorb.safetensors")
    with pytest.raises(ModelError, match="'x_embedder' has 64 inputs and 40 outputs in the model and 64 inputs and 32"):
        check_fit(layers, {**known, "x_embedder": (40, 64)}, "zorb.safetensors")
    del known["x_embedder"]
    with pytest.raises(ModelError, match="'zorb.safetensors' does not fit the model: the model has no layer 'x_emb"):
        check_fit(layers, known, "zorb.safetensors")


def test_settings_in_the_header_that_are_no_json_are_refused(tmp_path):
    lora = adapters.adapter(only=lambda name: name.endswith("x_embedder"))
    tensors, _ = FORMATS["diffusers"].write(lora)
    save_file(tensors, tmp_path / "lora.safetensors", metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(ModelError, match="lora_adapter_metadata in its header is no JSON"):
        read_adapter(tmp_path / "lora.safetensors")
    assert json.loads(FORMATS["diffusers"].write(lora)[1]["lora_adapter_metadata"])["transformer.r"] == 4


@pytest.mark.parametrize("name", FORMATS)
def test_an_adapter_in_another_format_keeps_what_its_header_says(name, tmp_path):
    lora, path = adapters.adapter(alpha=lambda number: 2.0), tmp_path / "lora.safetensors"
    path.write_bytes(encode(lora, "diffusers", {"modelspec.title": "zorb", "ss_network_dim": "99"}))
    first = read_adapter(path)
    path.write_bytes(encode(first, name, kept(first.header)))
    found = read_adapter(path)
    assert compare(lora, found).apart == {} and found.header["modelspec.title"] == "zorb"
    assert found.header.get("ss_network_dim") != "99"


def test_lora_and_dora_layers_in_one_file_are_refused_where_the_format_cannot_hold_them():
    plain, dora = adapters.adapter(), adapters.adapter(magnitude=True)
    name = "transformer.x_embedder"
    mixed = Lora({**dora.layers, name: plain.layers[name]})
    with pytest.raises(ModelError, match="'x_embedder' has no DoRA lengths while other layers have them"):
        FORMATS["diffusers"].write(mixed)
    assert compare(mixed, decode(*FORMATS["comfyui"].write(mixed))).apart == {}
