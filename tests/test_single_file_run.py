"""A whole run from the files that users of sd-scripts have, one for each part, without a network."""

import house
import pytest
import torch
from diffusers import AutoencoderKL, ChromaTransformer2DModel, FluxTransformer2DModel
from models.flux.single_files import bfl_autoencoder, bfl_transformer, chroma_file, written
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from simpletuner.errors import ConfigError


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The four files of FLUX.1 in miniature."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(8)
    clip = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
        hidden_act="quick_gelu", eos_token_id=2,
    ))  # fmt: skip
    t5 = T5EncoderModel(T5Config(
        vocab_size=32128, d_model=64, d_kv=16, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
    ))  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    transformer = FluxTransformer2DModel.from_pretrained(model, subfolder="transformer")
    encoder = {f"text_model.{name.removeprefix('text_model.')}": one for name, one in clip.state_dict().items()}
    t5_state = {name: one for name, one in t5.state_dict().items() if "embed_tokens" not in name}
    written(folder / "flux1-dev.safetensors", bfl_transformer(transformer.state_dict()))
    written(folder / "ae.safetensors", bfl_autoencoder(vae.state_dict()))
    written(folder / "clip_l.safetensors", encoder)
    written(folder / "t5xxl_fp16.safetensors", {name: one.half() for name, one in t5_state.items()})
    return folder


def options(files):
    return {
        "pretrained_vae_model_name_or_path": str(files / "ae.safetensors"),
        "text_encoder_path": str(files / "clip_l.safetensors"),
        "pretrained_t5_model_name_or_path": str(files / "t5xxl_fp16.safetensors"),
    }


def test_single_files_train(files, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    draw = {"validation_disable": False, "validation_prompt": "a ring", "validation_resolution": "64x64",
            "validation_num_inference_steps": 1}  # fmt: skip
    more = {**options(files), **draw, "tokenizer_max_length": 32, "max_train_steps": 2}
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)], **more)
    outcome, _ = house.run(path, files / "flux1-dev.safetensors")
    with safe_open(next(outcome.folder.rglob("pytorch_lora_weights.safetensors")), "pt") as saved:
        names = [name for name in list(saved.keys()) if "lora_B" in name]
        assert any(saved.get_tensor(name).any() for name in names)


def test_single_files_of_chroma_train(files, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(3)
    chroma = ChromaTransformer2DModel(
        num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=64,
        axes_dims_rope=(4, 6, 6), approximator_hidden_dim=16, approximator_layers=2,
    )  # fmt: skip
    base = written(tmp_path / "chroma1-hd.safetensors", chroma_file(chroma.state_dict()))
    more = {name: path for name, path in options(files).items() if name != "text_encoder_path"}
    path = house.write_run(
        tmp_path / "run",
        [house.data_set("subject", pictures)],
        **{**more, "model_family": "chroma", "tokenizer_max_length": 32, "max_train_steps": 2},
        **{"validation_disable": False, "validation_prompt": "a ring", "validation_resolution": "64x64"},
        validation_num_inference_steps=1,
    )
    outcome, _ = house.run(path, base)
    saved = load_file(outcome.adapter)
    assert any(one.any() for name, one in saved.items() if "lora_B" in name)
    assert list((outcome.folder / "validation_images").iterdir())


def test_parts_that_are_nowhere_are_told_all_at_once(files, pictures, tmp_path):
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with pytest.raises(ConfigError) as told:
        house.resolved(path, files / "flux1-dev.safetensors")
    assert [problem.where for problem in told.value.problems] == list(options(files))


def test_a_packed_base_is_kept_for_the_next_run(model, pictures, tmp_path):
    more = {"base_model_precision": "int8-quanto", "max_train_steps": 1, "cache_dir": str(tmp_path / "cache")}
    adapters, times = [], set()
    for name in ("one", "two"):
        path = house.write_run(tmp_path / name, [house.data_set("subject", pictures)], **more)
        outcome, _ = house.run(path, model)
        adapters.append(load_file(next(outcome.folder.rglob("pytorch_lora_weights.safetensors"))))
        (place,) = (tmp_path / "cache" / "packed").iterdir()
        times.add((place / "rest.safetensors").stat().st_mtime_ns)
    assert len(times) == 1
    assert all(torch.equal(one, adapters[1][key]) for key, one in adapters[0].items())
