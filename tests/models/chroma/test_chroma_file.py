"""Chroma from single files is the Chroma that was stored."""

import pytest
import tiny
import torch
from diffusers import ChromaTransformer2DModel
from diffusers.loaders.single_file_utils import convert_chroma_transformer_checkpoint_to_diffusers
from models.flux.single_files import (
    assert_equal,
    bfl_transformer,
    chroma_file,
    encoders,
    from_file,
    in_fp8,
    sparse,
    t5_file,
    written,
)

from simpletuner.errors import ModelError
from simpletuner.models.chroma.family import Chroma
from simpletuner.models.chroma.loading import load_t5, load_tokenizer, load_transformer
from simpletuner.models.chroma.text import open_encoder
from simpletuner.models.family import Compute, Sources, TextSettings
from simpletuner.models.streaming import check

CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def plain():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = ChromaTransformer2DModel(
            num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
            axes_dims_rope=(4, 6, 6), approximator_num_channels=64, approximator_hidden_dim=20, approximator_layers=2,
        )  # fmt: skip
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.normal_(std=0.05)
    return made.eval()


def test_a_single_file_is_the_same_transformer(plain, tmp_path):
    found = load_transformer(from_file(written(tmp_path / "chroma.safetensors", chroma_file(plain.state_dict()))), CPU)
    assert_equal(found, plain)
    told = {name: plain.config[name] for name in found.config if name not in {"out_channels", "_class_name"}}
    assert {name: found.config[name] for name in told} == told


def test_its_names_are_those_that_diffusers_reads_and_the_true_shape_is_told_from_sizes_alone(tmp_path):
    with torch.device("meta"):
        whole = ChromaTransformer2DModel()
        state = {name: one.to(torch.bfloat16) for name, one in whole.state_dict().items()}
        file = chroma_file(state)
        converted = convert_chroma_transformer_checkpoint_to_diffusers(dict(file))
    assert {name: one.shape for name, one in converted.items()} == {name: one.shape for name, one in state.items()}
    from simpletuner.models.chroma import single_file

    path = sparse(tmp_path / "chroma1-hd.safetensors", file)
    pieces = single_file.pieces(path)
    config = single_file.shape(pieces, path)
    assert {name: whole.config[name] for name in config if name != "out_channels"} == {
        name: value for name, value in config.items() if name != "out_channels"
    }
    with torch.device("meta"):
        check(ChromaTransformer2DModel.from_config(config), pieces)


def test_the_names_of_diffusers_and_fp8_are_read_too(plain, tmp_path):
    path = written(tmp_path / "merged.safetensors", plain.state_dict())
    assert_equal(load_transformer(from_file(path), CPU), plain)
    path = written(tmp_path / "fp8.safetensors", in_fp8(chroma_file(plain.state_dict()), scaled=True))
    for name, one in load_transformer(from_file(path), CPU).state_dict().items():
        original = plain.state_dict()[name]
        assert (one - original).norm() <= 0.04 * original.norm(), name


def test_a_flux_is_told_apart(tmp_path):
    path = written(tmp_path / "flux1-dev.safetensors", bfl_transformer(tiny.flux().state_dict()))
    with pytest.raises(ModelError, match="is a transformer of FLUX.1. Set model_family to flux"):
        load_transformer(from_file(path), CPU)


def test_a_torn_file_is_named(plain, tmp_path):
    state = chroma_file(plain.state_dict())
    torn = {name: one for name, one in state.items() if "distilled_guidance_layer.in_proj" not in name}
    with pytest.raises(ModelError, match="is no whole transformer of Chroma: it has no 'distilled_guidance"):
        load_transformer(from_file(written(tmp_path / "torn.safetensors", torn)), CPU)


def test_the_text_encoder_and_its_tokenizer_come_from_single_files(tmp_path):
    _, t5 = encoders()
    path = written(tmp_path / "t5xxl.safetensors", t5_file(t5))
    weights = located(base=str(tmp_path / "chroma.safetensors"), t5=str(path))
    assert_equal(load_t5(weights, CPU), t5)
    assert load_tokenizer(weights)("a photo of a cat")["input_ids"] == [3, 9, 1202, 13, 3, 9, 1712, 1]


def test_the_words_of_a_prompt_and_one_token_of_its_padding_are_seen(tmp_path):
    path = written(tmp_path / "t5xxl.safetensors", t5_file(encoders()[1]))
    weights = located(base=str(tmp_path / "chroma.safetensors"), t5=str(path))
    with open_encoder(weights, TextSettings(("no_change", "no_change"), 16, "unmodified"), CPU) as encode:
        (found,) = encode(["a photo of a cat"])
    assert found["prompt_mask"].tolist() == [True] * 9 + [False] * 7  # eight tokens, and one of the padding


def located(**given):
    return Chroma().weights(Sources(**given))


def test_what_a_single_file_does_not_hold_is_asked_for_or_taken_from_the_flavour(plain, tmp_path):
    path = written(tmp_path / "chroma.safetensors", chroma_file(plain.state_dict()))
    missing = [one.where for one in Chroma().missing(located(base=str(path)))]
    assert missing == ["pretrained_vae_model_name_or_path", "pretrained_t5_model_name_or_path"]
    weights = located(base=str(path), flavour="hd")
    assert (weights.transformer, weights.vae, weights.t5) == (str(path), *["lodestones/Chroma1-HD"] * 2)
    assert list(Chroma().missing(weights)) == []


def test_a_clip_is_refused_because_chroma_has_none():
    (problem,) = Chroma().missing(located(flavour="hd", clip="clip_l.safetensors"))
    assert (problem.where, problem.what) == ("text_encoder_path", "Chroma has no CLIP text encoder; leave it out")


def test_noise_levels_come_along_for_single_files(tmp_path):
    found = Chroma().sampling_schedule(located(base=str(tmp_path / "chroma.safetensors")), 4, 16, 16)
    assert found.sigmas[0] == 1.0 and found.sigmas[-1] == 0.0
    assert list(found.sigmas) == sorted(found.sigmas, reverse=True)
    assert len(found.sigmas) == 5
