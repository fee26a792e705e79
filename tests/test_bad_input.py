"""Bad input about the model, the adapter and memory: one message that names it, exit code 2, and no work before it."""

import shutil

import house
import pytest
import tiny
import torch
from models.flux.single_files import bfl_transformer, written
from safetensors.torch import save_file

from simpletuner.cli.main import main
from simpletuner.demo.pretrain import untrained_pipeline
from simpletuner.models.adapters.lycoris import LycorisPlan
from simpletuner.models.adapters.lycoris_settings import LycorisSettings
from simpletuner.models.families import FAMILIES
from simpletuner.models.family import Compute

CPU = Compute(torch.device("cpu"), torch.float32)
LYCORIS = {"lora_type": "lycoris", "lora_rank": None, "flux_lora_target": None}


@pytest.fixture
def folder(model, tmp_path):
    """A copy of a whole model that may be harmed."""
    return shutil.copytree(model, tmp_path / "model")


@pytest.fixture
def train(pictures, tmp_path, monkeypatch, capsys):
    """`simpletuner train`; returns its exit code and what it said about it."""

    def run(model, **options):
        path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)], **options)
        monkeypatch.setenv("MODEL", str(model))
        monkeypatch.setattr("sys.argv", ["simpletuner", "train", "--config", str(path)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not (tmp_path / "run" / "cache").exists()
        return stopped.value.code, capsys.readouterr().err

    return run


def refused(told, option, *words):
    """One problem, of this option, in these words."""
    code, said = told
    assert code == 2
    first, problem = said.strip().splitlines()
    assert first.endswith("has 1 problem:")
    assert problem.startswith(f"  {option}: ")
    assert all(word in problem for word in words), problem


@pytest.mark.parametrize(
    ("tensor", "family"),
    [
        ("distilled_guidance_layer.in_proj.weight", "Chroma; set model_family to chroma"),
        ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion 1, 2 or XL"),
        ("double_stream_modulation_img.lin.weight", "FLUX.2"),
    ],
)
def test_a_file_of_another_family(train, tmp_path, tensor, family):
    path = written(tmp_path / "other.safetensors", {tensor: torch.zeros(2, 2)})
    told = train("unused", pretrained_model_name_or_path="black-forest-labs/FLUX.1-dev",
                 pretrained_transformer_model_name_or_path=str(path))  # fmt: skip
    refused(told, "pretrained_transformer_model_name_or_path", "other.safetensors", family)


def test_a_folder_of_another_family(train, folder):
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace("FluxTransformer2DModel", "SD3Transformer2DModel"))
    refused(train(folder), "pretrained_model_name_or_path", "holds a SD3Transformer2DModel", "set model_family")


def test_a_missing_shard(train, folder):
    untrained_pipeline().transformer.save_pretrained(folder / "transformer", max_shard_size="100KB")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    shards = sorted((folder / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    refused(train(folder), "pretrained_model_name_or_path", f"lacks 1 of {len(shards)} weight files", shards[1].name)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_a_truncated_file_of_any_part(train, folder, part):
    (path,) = (folder / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    refused(train(folder), "pretrained_model_name_or_path", f"{path} ends too early", "nothing was loaded")


def test_a_truncated_single_file(train, model, tmp_path):
    path = written(tmp_path / "flux1-dev.safetensors", bfl_transformer(tiny.flux().state_dict()))
    path.write_bytes(path.read_bytes()[:-1])
    told = train(model, pretrained_transformer_model_name_or_path=str(path))
    refused(told, "pretrained_transformer_model_name_or_path", "flux1-dev.safetensors ends too early")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flux1-dev.ckpt", "is a pickle, which can run code when it is opened"),
        ("flux1-dev-Q8_0.gguf", "is a GGUF file, whose packed weights cannot be trained on. Use the .safetensors file"),
    ],
)
@pytest.mark.parametrize(
    "option", ["pretrained_model_name_or_path", "pretrained_transformer_model_name_or_path", "text_encoder_path"]
)
def test_a_pickle_or_a_gguf_file(train, model, tmp_path, name, said, option):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    refused(train(model, **{option: str(tmp_path / name)}), option, name, said)


def test_a_folder_with_nothing_but_a_pickle(train, folder):
    (path,) = (folder / "transformer").glob("*.safetensors")
    path.rename(path.with_suffix(".bin"))
    refused(train(folder), "pretrained_model_name_or_path", "is a pickle, which can run code")


def route(start, end):
    return {"routes": [{"selection_ratio": 0.5, "start_layer_idx": start, "end_layer_idx": end}]}


def adapter(path, width):
    save_file(
        {
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, width),
            "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(width, 2),
        },
        path,
    )
    return path


@pytest.mark.parametrize("option", ["init_lora", "base_adapters", "assistant_lora_path"])
def test_an_adapter_of_another_shape(train, model, tmp_path, option):
    path = adapter(tmp_path / "other.safetensors", 20)
    told = train(model, **{option: str(path)})
    refused(told, option, "does not fit the model", "20 inputs and 20 outputs in the adapter")


@pytest.mark.parametrize("option", ["init_lora", "base_adapters", "assistant_lora_path"])
def test_an_adapter_that_is_not_there_or_not_whole(train, model, tmp_path, option):
    path = adapter(tmp_path / "torn.safetensors", 20)
    path.write_bytes(path.read_bytes()[:-1])
    refused(train(model, **{option: str(path)}), option, "torn.safetensors' is no whole safetensors file")
    path.unlink()
    refused(train(model, **{option: str(path)}), option, "there is no adapter file", "torn.safetensors")


@pytest.mark.parametrize(
    ("options", "option", "said"),
    [
        ({"flux_lora_target": "all+ff"}, "flux_lora_target", "did you mean 'all+ffs'?"),
        ({"lora_rank": 0}, "lora_rank", "must be at least 1, got 0"),
        (
            {"lora_init_type": "loftq", "base_model_precision": "int8-quanto"},
            "lora_init_type",
            "loftq needs the weights as they are, and base_model_precision is int8-quanto",
        ),
        (
            {"enable_group_offload": True, "blocks_to_swap": 2},
            "blocks_to_swap",
            "does not go together with enable_group_offload",
        ),
        (
            {"musubi_blocks_to_swap": 99},
            "musubi_blocks_to_swap",
            "which is how many blocks the network has, got 99",
        ),
        ({"blocks_to_swap": 98}, "blocks_to_swap", "of the first kind of blocks cannot be swapped"),
        ({"single_blocks_to_swap": 4}, "single_blocks_to_swap", "4 of the second kind of blocks cannot be swapped"),
        ({"flux_lora_target": "nano"}, "flux_lora_target", "no layer of the network is called single_transformer"),
        (
            {"peft_lora_target_modules": "to_q,to_x"},
            "peft_lora_target_modules",
            "no layer of the network is called to_x",
        ),
        ({"peft_lora_target_modules": "to_x"}, "peft_lora_target_modules", "no layer of the network is called to_x"),
        ({"train_double_block_indices": "0-9"}, "train_double_block_indices", "names block 9, and the network has 2"),
        ({"train_single_block_indices": "5"}, "train_single_block_indices", "names block 5, and the network has 5"),
        ({"train_blocks": "single", "flux_lora_target": "context"}, "flux_lora_target", "leave no layer to train"),
        ({"rank_pattern": {"to_x": 2}}, "rank_pattern", "no trained layer has a name that ends in 'to_x'"),
        ({"lora_layers": [{"pattern": "to_x", "lr": 1e-4}]}, "lora_layers", "no trained layer has 'to_x' in its name"),
        ({"lora_layers": [{"pattern": "to_x", "rank": 0}]}, "lora_layers", "no trained layer has 'to_x' in its name"),
        ({"lora_init_type": "olora", "lora_rank": 256}, "lora_init_type", "olora cannot give rank 256"),
        (
            {"lora_init_type": "loftq", "train_text_encoder": True, "text_encoder_1_precision": "int4-quanto"},
            "lora_init_type",
            "loftq needs the weights as they are, and text_encoder_1_precision is int4-quanto",
        ),
        (
            {"ramtorch": True, "ramtorch_target_modules": "to_q,to_x"},
            "ramtorch_target_modules",
            "no layer of the network is called to_x",
        ),
        ({"tread_config": route(1, 9)}, "tread_config", "names block 9, but the network has 7: 0 to 6"),
        ({"tread_config": route(-2, 1)}, "tread_config", "a route that ends at block 1, before block -2"),
        (
            {"enable_group_offload": True, "group_offload_to_disk_path": "/proc/nothing"},
            "group_offload_to_disk_path",
            "/proc/nothing cannot be written to",
        ),
    ],
)
def test_options_that_cannot_be(train, model, options, option, said):
    refused(train(model, **options), option, said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dropout": "much"}, "dropout must be a number of at least 0 and below 1, got 'much'"),
        ({"apply_preset": {"target_module": "Attention"}}, "target_module must be a list of names"),
        ({"apply_preset": {"target_module": ["Transformer"]}}, "the network has no Transformer (target_module)"),
        ({"apply_preset": {"target_name": ["("]}}, "target_name: '(' is not a regular expression"),
        ({"apply_preset": {"target_name": ["to_x"]}}, "no part of the network is called to_x (target_name)"),
        ({"apply_preset": {"module_algo_map": {"Attention": "lokr"}}}, "must be an object of settings, got 'lokr'"),
        (
            {"apply_preset": {"module_algo_map": {"Attention": {"factor": "x"}}}},
            "factor must be a whole number",
        ),
        ({"apply_preset": {"module_algo_map": {"Other": {"factor": 2}}}}, "the network has no Other (module_algo_map)"),
        ({"apply_preset": {"name_algo_map": {"to_x": {"dim": 2}}}}, "is called to_x (name_algo_map)"),
        ({"algo": "boft", "linear_dim": 1}, "impossible to decompose"),
        ({"apply_preset": {"target_module": []}}, "names no layer to train; name some in target_module"),
        (
            {"apply_preset": {"exclude_name": [".*"]}},
            "no linear layer that exclude_name leaves is one of FluxAttention",
        ),
    ],
)
def test_lycoris_settings_that_cannot_be(train, model, settings, said):
    refused(train(model, **LYCORIS, lycoris_config={"algo": "lokr", **settings}), "lycoris_config", said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algo": "loha"}, "is for algo lokr, and lycoris_config has none"),
        (
            {"algo": "lokr", "apply_preset": {"module_algo_map": {"FeedForward": {"algo": "loha"}}}},
            "is for algo lokr, and module_algo_map FeedForward has algo loha",
        ),
        ({"algo": "lokr", "linear_dim": 2}, "needs algo lokr with full_matrix, and transformer_blocks_0_attn_to"),
    ],
)
def test_a_norm_for_the_start_of_layers_that_cannot_begin_near_zero(train, model, settings, said):
    refused(train(model, **LYCORIS, init_lokr_norm=1e-3, lycoris_config=settings), "init_lokr_norm", said)


def lycoris_file(path, module, **settings):
    adapter = LycorisPlan(LycorisSettings.read(settings)).attach(module, torch.float32, 0)
    path.write_bytes(adapter.publish({}))
    return path


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algo": "lokr"}, "does not fit the model"),
        ({"algo": "loha", "dora_wd": True}, "does not fit the model"),
        ({"algo": "diag-oft"}, "does not fit the model"),
        ({"algo": "ia3"}, "is of algo ia3, which cannot become part of a base"),
    ],
)
def test_a_lycoris_adapter_that_cannot_become_part_of_the_base(train, model, tmp_path, settings, said):
    path = lycoris_file(tmp_path / "other.safetensors", tiny.flux(), **settings)
    refused(train(model, base_adapters=str(path)), "base_adapters", "other.safetensors", said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"algo": "lokr", "factor": 4},
            "shape (2, 2) there, and (4, 4) in this run. It was made with factor 2; set that",
        ),
        ({"algo": "loha"}, 'hada_w1_a\'. It was made with algo "lokr", factor 2; set that'),
        ({"algo": "lokr", "factor": 2, "apply_preset": {"target_module": ["FeedForward"]}}, "and this run has not"),
    ],
)
def test_a_lycoris_adapter_of_another_size_to_start_from(train, model, tmp_path, settings, said):
    module = FAMILIES["flux"].denoiser(tiny.weights(model), CPU).module
    path = lycoris_file(tmp_path / "lokr.safetensors", module, algo="lokr", factor=2)
    told = train(model, **LYCORIS, init_lora=str(path), lycoris_config=settings)
    refused(told, "init_lora", "is no adapter with the settings of lycoris_config", said)


@pytest.mark.parametrize(
    ("option", "part", "held"),
    [
        ("pretrained_vae_model_name_or_path", "transformer", "FluxTransformer2DModel"),
        ("text_encoder_path", "text_encoder_2", "T5EncoderModel"),
        ("pretrained_t5_model_name_or_path", "text_encoder", "CLIPTextModel"),
    ],
)
def test_a_part_that_is_another_one(train, model, option, part, held):
    refused(train(model, **{option: str(model / part)}), option, f"holds a {held}, and this part of the model")


def test_an_image_encoder_of_another_model(train, folder, tmp_path):
    other = shutil.copytree(folder / "vae", tmp_path / "other")
    config = other / "config.json"
    config.write_text(config.read_text().replace('"latent_channels": 16', '"latent_channels": 4'))
    told = train(folder, pretrained_vae_model_name_or_path=str(other))
    refused(told, "pretrained_vae_model_name_or_path", "makes latents of 4 channels, and the transformer takes 16")


def test_layers_that_are_not_there_are_told_by_check_too(model, pictures, tmp_path, monkeypatch, capsys):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], peft_lora_target_modules="to_q,to_x")
    monkeypatch.setenv("MODEL", str(model))
    monkeypatch.setattr("sys.argv", ["simpletuner", "check", "--offline", "--config", str(path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    refused((stopped.value.code, capsys.readouterr().err), "peft_lora_target_modules", "called to_x; leave it out")


@pytest.mark.parametrize(
    ("options", "option", "said"),
    [
        ({"lora_type": "lycoris", "init_lora": "lora.safetensors"}, "init_lora", "is no LyCORIS adapter"),
        ({"init_lora": "lokr.safetensors"}, "init_lora", "is a LyCORIS adapter, and lora_type is standard"),
        ({"assistant_lora_path": "lokr.safetensors"}, "assistant_lora_path", "which cannot help; use a LoRA"),
        ({"base_adapters": "encoder.safetensors"}, "base_adapters", "has nothing for the transformer"),
    ],
)
def test_an_adapter_of_another_kind(train, model, tmp_path, monkeypatch, options, option, said):
    monkeypatch.chdir(tmp_path)
    adapter(tmp_path / "lora.safetensors", 128)
    save_file({"lycoris_transformer_blocks_0_attn_to_q.lokr_w1": torch.ones(2, 2)}, tmp_path / "lokr.safetensors")
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file(
        {name.format("A"): torch.ones(2, 8), name.format("B"): torch.ones(8, 2)}, tmp_path / "encoder.safetensors"
    )
    lycoris = {"lora_rank": None, "flux_lora_target": None, "lycoris_config": {"algo": "lokr"}}
    refused(train(model, **options, **(lycoris if "lora_type" in options else {})), option, said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_a_kernel_of_a_card_without_one(train, model):
    told = train(model, attention_mechanism="cudnn")
    refused(told, "attention_mechanism", "'cudnn' needs a CUDA or ROCm card")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_streams_without_a_card(train, model):
    told = train(model, enable_group_offload=True, group_offload_use_stream=True)
    refused(told, "group_offload_use_stream", "this machine has no card", "leave it out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_a_compiler_that_is_not_there(train, model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    told = train(model, dynamo_backend="inductor")
    refused(told, "dynamo_backend", "for a compiler of C++, and this machine has none; install g++")
