"""Parts of FLUX.1 from single files are the parts that were stored; files of other things are told apart."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from single_files import (
    assert_equal,
    assert_same_words,
    bfl_autoencoder,
    bfl_transformer,
    clip_file,
    encoders,
    from_file,
    in_fp8,
    sparse,
    t5_file,
    written,
)

from simpletuner.errors import ModelError
from simpletuner.models.family import Compute
from simpletuner.models.flux.loading import (
    load_autoencoder,
    load_clip,
    load_t5,
    load_tokenizers,
    load_transformer,
    scheduler_source,
    transformer_pieces,
)
from simpletuner.models.streaming import check

CPU = Compute(torch.device("cpu"), torch.float32)
BF16 = Compute(torch.device("cpu"), torch.bfloat16)


@pytest.fixture(scope="module")
def plain():
    """The weights of a tiny transformer, none of them zero."""
    made = tiny.flux()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.05)
    return made


@pytest.fixture
def bfl(plain, tmp_path):
    return written(tmp_path / "flux1-dev.safetensors", bfl_transformer(plain.state_dict()))


def test_a_single_file_of_black_forest_labs_is_the_same_transformer(plain, bfl):
    found = load_transformer(from_file(bfl), CPU)
    assert_equal(found, plain)
    stored = {name: plain.config[name] for name in found.config if name not in {"out_channels", "_class_name"}}
    assert {name: found.config[name] for name in stored} == stored
    inputs = tiny.inputs()
    assert torch.equal(tiny.FluxDenoiser(found).predict(**inputs), tiny.FluxDenoiser(plain.eval()).predict(**inputs))


def test_a_single_file_under_the_names_of_diffusers_is_read_too(plain, tmp_path):
    path = written(tmp_path / "merged.sft", {f"transformer.{name}": one for name, one in plain.state_dict().items()})
    assert_equal(load_transformer(from_file(path), CPU), plain)


def test_a_file_without_guidance_is_schnell(tmp_path):
    schnell = tiny.flux(guidance=False)
    path = written(tmp_path / "flux1-schnell.safetensors", bfl_transformer(schnell.state_dict()))
    assert_equal(load_transformer(from_file(path), CPU), schnell)
    assert scheduler_source(from_file(path)).endswith("schnell")


def test_a_file_with_guidance_gets_the_noise_levels_of_dev(bfl, model):
    stored = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    bundled = Path(scheduler_source(from_file(bfl))) / "scheduler" / "scheduler_config.json"
    assert json.loads(bundled.read_text()).items() <= stored.items()


def test_pruned_models_and_those_with_more_inputs_have_the_shape_of_their_weights(tmp_path):
    torch.manual_seed(3)
    odd = FluxTransformer2DModel(
        in_channels=384, out_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=24, axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )  # fmt: skip
    found = load_transformer(from_file(written(tmp_path / "fill.safetensors", bfl_transformer(odd.state_dict()))), CPU)
    assert_equal(found, odd)
    assert (found.config.in_channels, found.config.out_channels, found.config.num_layers) == (384, 64, 1)


def test_plain_fp8_is_read_as_the_numbers_that_it_holds(plain, tmp_path):
    state = in_fp8(bfl_transformer(plain.state_dict()), scaled=False)
    found = load_transformer(from_file(written(tmp_path / "fp8.safetensors", state)), BF16)
    for name, one in found.state_dict().items():
        original = plain.state_dict()[name]
        wanted = original.to(torch.float8_e4m3fn) if original.dim() > 1 else original
        assert torch.equal(one, wanted.to(torch.bfloat16)), name


@pytest.mark.parametrize("marked", [("scale_weight", "scaled_fp8"), ("weight_scale",)])
def test_scaled_fp8_is_multiplied_with_its_factors(plain, tmp_path, marked):
    state = in_fp8(bfl_transformer(plain.state_dict()), scaled=True, marked=marked)
    found = load_transformer(from_file(written(tmp_path / "scaled.safetensors", state)), CPU)
    for name, one in found.state_dict().items():
        original = plain.state_dict()[name]
        # Three bits behind the point: at most a sixteenth of each number, and of the smallest ones a little more.
        assert ((one - original).abs() <= original.abs() / 16 + original.abs().max() / 448 / 512).all(), name


def test_factors_of_single_rows_reach_their_rows(plain, tmp_path):
    state = bfl_transformer(plain.state_dict())
    name = "double_blocks.0.img_attn.qkv"
    factors = torch.rand(len(state[f"{name}.weight"]), 1) + 0.5
    wanted = (state[f"{name}.weight"] / factors).to(torch.float8_e4m3fn).float() * factors
    state |= {
        f"{name}.weight": (state[f"{name}.weight"] / factors).to(torch.float8_e4m3fn),
        f"{name}.weight_scale": factors,
    }
    attention = (
        load_transformer(from_file(written(tmp_path / "rows.safetensors", state)), CPU).transformer_blocks[0].attn
    )
    assert torch.equal(torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]), wanted)


def autoencoder():
    torch.manual_seed(5)
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=16, use_quant_conv=False,
        use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159,
    )  # fmt: skip


def test_a_single_file_of_the_autoencoder_is_the_same_autoencoder(tmp_path):
    stock = autoencoder()
    state = bfl_autoencoder(stock.state_dict())
    converted = convert_ldm_vae_checkpoint(dict(state), stock.config)
    found = load_autoencoder(tiny.weights(written(tmp_path / "ae.safetensors", state)), CPU)
    assert_equal(found, stock)
    assert all(
        torch.equal(one.reshape(found.state_dict()[name].shape), found.state_dict()[name])
        for name, one in converted.items()
    )
    assert (found.config.scaling_factor, found.config.shift_factor) == (0.3611, 0.1159)
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(found.encode(pixels).latent_dist.mean, stock.eval().encode(pixels).latent_dist.mean)


def test_single_files_of_the_text_encoders_say_the_same(tmp_path):
    clip, t5 = encoders()
    paths = written(tmp_path / "clip_l.safetensors", clip_file(clip)), written(tmp_path / "t5.safetensors", t5_file(t5))
    weights = tiny.weights(paths[0])
    tokenizers = load_tokenizers(str(paths[0]), None)
    own = FluxPipeline(None, None, load_clip(str(paths[0]), weights, torch.float32), tokenizers[0],
                       load_t5(str(paths[1]), weights, torch.float32), tokenizers[1], None)  # fmt: skip
    stock = FluxPipeline(None, None, clip, tokenizers[0], t5, tokenizers[1], None)
    assert_same_words(own, stock)


def test_t5_in_scaled_fp8_with_embeddings_under_their_other_name_is_read(tmp_path):
    _, t5 = encoders()
    state = t5_file(t5)
    state["encoder.embed_tokens.weight"] = state.pop("shared.weight")
    path = written(tmp_path / "t5xxl_fp8_e4m3fn_scaled.safetensors", in_fp8(state, scaled=True))
    found = load_t5(str(path), tiny.weights(path), torch.float32)
    for name, one in found.state_dict().items():
        original = t5.state_dict()[name]
        assert (one - original).norm() <= 0.04 * original.norm(), name


def test_one_file_with_everything_is_taken_apart(plain, tmp_path):
    clip, t5 = encoders()
    vae = autoencoder()
    state = {f"model.diffusion_model.{name}": one for name, one in bfl_transformer(plain.state_dict()).items()}
    state |= {f"vae.{name}": one for name, one in bfl_autoencoder(vae.state_dict()).items()}
    state |= {f"text_encoders.clip_l.transformer.{name}": one for name, one in clip_file(clip).items()}
    state |= {f"text_encoders.t5xxl.transformer.{name}": one for name, one in t5_file(t5).items()}
    path = written(tmp_path / "all.safetensors", state)
    weights = from_file(path)
    assert_equal(load_transformer(weights, CPU), plain)
    assert_equal(load_autoencoder(weights, CPU), vae)
    assert_equal(load_clip(str(path), weights, torch.float32), clip)
    assert_equal(load_t5(str(path), weights, torch.float32), t5)


def test_the_tokenizers_that_come_along_are_those_of_flux():
    clip, t5 = load_tokenizers("flux1-dev.safetensors", None)
    assert clip("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert t5("a photo of a cat")["input_ids"] == [3, 9, 1202, 13, 3, 9, 1712, 1]
    assert (clip.model_max_length, t5.model_max_length, clip.pad_token_id, t5.pad_token_id) == (77, 512, 49407, 0)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\x05\0\0\0\0\0\0\0abcde"])
def test_a_file_that_is_no_safetensors_file_is_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="broken.safetensors is not a whole safetensors file"):
        load_transformer(from_file(path), CPU)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.pth"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match="is a pickle, which can run code"):
        load_transformer(from_file(tmp_path / name), CPU)


@pytest.mark.parametrize(
    ("tensor", "family"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion 1, 2 or XL"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("distilled_guidance_layer.in_proj.weight", "Chroma; set model_family to chroma"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "an adapter and not a model"),
    ],
)
def test_files_of_another_family_are_told_apart(tmp_path, tensor, family):
    path = written(tmp_path / "other.safetensors", {tensor: torch.zeros(2, 2)})
    with pytest.raises(ModelError, match=family):
        load_transformer(from_file(path), CPU)


def test_a_file_without_the_part_that_is_looked_for_says_what_it_has(bfl):
    with pytest.raises(ModelError, match="holds no T5 text encoder; it holds transformer"):
        load_t5(str(bfl), tiny.weights(bfl), torch.float32)


def test_a_file_with_missing_blocks_is_named(plain, tmp_path):
    state = bfl_transformer(plain.state_dict())
    gap = {name: one for name, one in state.items() if not name.startswith("double_blocks.1.")}
    with pytest.raises(ModelError, match="there is no transformer_blocks.1"):
        load_transformer(from_file(written(tmp_path / "gap.safetensors", gap)), CPU)
    torn = {name: one for name, one in state.items() if name != "single_blocks.2.linear2.weight"}
    with pytest.raises(ModelError, match="1 of .* weights are missing, single_transformer_blocks.2.proj_out.weight"):
        load_transformer(from_file(written(tmp_path / "torn.safetensors", torn)), CPU)


def test_an_autoencoder_of_another_model_is_refused(tmp_path):
    state = bfl_autoencoder(autoencoder().state_dict())
    state["decoder.conv_in.weight"] = state["decoder.conv_in.weight"][:, :4]
    with pytest.raises(ModelError, match="an autoencoder with 4 channels"):
        load_autoencoder(tiny.weights(written(tmp_path / "vae.safetensors", state)), CPU)


def test_the_true_shape_of_flux_is_told_from_names_and_sizes_alone(tmp_path):
    with torch.device("meta"):
        whole = FluxTransformer2DModel(guidance_embeds=True)
        state = bfl_transformer({name: one.to(torch.bfloat16) for name, one in whole.state_dict().items()})
    path = sparse(tmp_path / "flux1-dev.safetensors", state)
    assert path.stat().st_size > 23e9
    config, pieces = transformer_pieces(from_file(path))
    with torch.device("meta"):
        made = FluxTransformer2DModel.from_config(dict(config))
    check(made, pieces)
    same = ("num_layers", "num_single_layers", "num_attention_heads", "axes_dims_rope", "guidance_embeds")
    assert [made.config[name] for name in same] == [whole.config[name] for name in same]
