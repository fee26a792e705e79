"""A single file gives the parts that it holds; for the others the user is asked at once."""

import pytest
import torch
from single_files import written

from simpletuner.models.family import Sources
from simpletuner.models.flux.flavours import FLAVOURS
from simpletuner.models.flux.single_file.parts import AUTOENCODER, CLIP, T5, TRANSFORMER
from simpletuner.models.flux.single_file.whole import located, missing_parts

HUB = "black-forest-labs/FLUX.1-dev"
ONE = torch.zeros(1)


@pytest.fixture
def transformer(tmp_path):
    return str(written(tmp_path / "flux1-dev.safetensors", {"double_blocks.0.img_attn.qkv.weight": ONE}))


@pytest.fixture
def whole(tmp_path):
    names = (
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
        "vae.decoder.conv_in.weight",
        "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight",
    )
    return str(written(tmp_path / "all.safetensors", dict.fromkeys(names, ONE)))


def sources(base, flavour=None, **given):
    found = located(Sources(base=base, flavour=flavour, **given), FLAVOURS, "krea")
    return {TRANSFORMER: found.transformer, AUTOENCODER: found.vae, CLIP: found.clip, T5: found.t5}


def test_a_file_with_everything_needs_nothing_else(whole):
    assert set(sources(whole, "dev").values()) == {whole}
    assert not list(missing_parts(whole, sources(whole)))


def test_each_part_that_a_file_lacks_is_asked_for_under_its_option(transformer):
    found = sources(transformer, t5="you/t5")
    problems = list(missing_parts(transformer, found))
    assert [one.where for one in problems] == ["pretrained_vae_model_name_or_path", "text_encoder_path"]
    assert str(problems[0]) == (
        f"pretrained_vae_model_name_or_path: is required: '{transformer}' holds no autoencoder; name where it is, or "
        f"set model_flavour to take what is missing from the Hub"
    )


def test_a_flavour_stands_in_for_what_a_file_lacks(transformer):
    found = sources(transformer, "dev", vae="ae.safetensors")
    assert found == {TRANSFORMER: transformer, AUTOENCODER: "ae.safetensors", CLIP: HUB, T5: HUB}
    assert not list(missing_parts(transformer, found))


def test_folders_and_ids_have_every_part(tmp_path):
    for base in (str(tmp_path), HUB):
        assert set(sources(base, "schnell").values()) == {base}
        assert not list(missing_parts(base, sources(base)))


def test_a_file_of_the_wrong_part_is_a_problem_of_its_option(whole, transformer):
    (problem,) = missing_parts(whole, sources(whole, clip=transformer))
    assert str(problem) == (
        f"text_encoder_path: {transformer} holds no CLIP text encoder; it holds transformer. Name the file of the CLIP "
        f"text encoder as well"
    )


def test_a_damaged_file_is_a_problem_of_its_option(tmp_path):
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"abc")
    problem, *_ = missing_parts(str(torn), sources(str(torn)))
    assert problem.where == "pretrained_model_name_or_path" and "is not a whole safetensors file" in problem.what
