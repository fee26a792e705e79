"""What the flavours of a family mean for weights and other options."""

import pytest

from simpletuner.models.families import FAMILIES, FLAVOURS, defaults, takes_references, unmet
from simpletuner.models.options import Model


@pytest.mark.parametrize(
    ("flavour", "place"),
    [
        ("krea", "black-forest-labs/FLUX.1-Krea-dev"),
        ("dev", "black-forest-labs/FLUX.1-dev"),
        ("schnell", "black-forest-labs/FLUX.1-schnell"),
        ("kontext", "black-forest-labs/FLUX.1-Kontext-dev"),
        ("fluxbooru", "terminusresearch/fluxbooru-v0.3"),
        ("libreflux", "jimmycarter/LibreFlux-SimpleTuner"),
        (None, "black-forest-labs/FLUX.1-Krea-dev"),
    ],
)
def test_a_flavour_stands_for_a_repository(flavour, place):
    weights = Model(model_flavour=flavour).weights()
    assert (weights.base, weights.transformer, weights.vae) == (place, place, place)
    assert weights.flavour == (flavour or "krea")


def test_a_fine_tune_of_a_flavour_keeps_what_the_flavour_needs():
    model = Model(model_flavour="libreflux", pretrained_model_name_or_path="me/my-libreflux")
    assert (model.weights().base, model.weights().flavour) == ("me/my-libreflux", "libreflux")
    assert defaults(model.model_dump())["flux_attention_masked_training"] is True


def test_a_path_alone_is_of_no_flavour():
    assert Model(pretrained_model_name_or_path="me/my-flux").weights().flavour is None
    assert defaults({"pretrained_model_name_or_path": "me/my-flux"}) == {}


@pytest.mark.parametrize("subfolder", ["none", "None", ""])
def test_a_transformer_of_its_own_may_lie_at_the_top(subfolder):
    weights = Model(
        model_flavour="dev",
        pretrained_transformer_model_name_or_path="me/tuned",
        pretrained_transformer_subfolder=subfolder,
    ).weights()
    assert weights.transformer == "me/tuned"
    assert weights.transformer_subfolder == ""
    assert weights.vae == weights.base == "black-forest-labs/FLUX.1-dev"


def test_schnell_brings_its_noise_levels_its_helper_and_its_prompt_length():
    found = defaults({"model_family": "flux", "model_flavour": "schnell"})
    assert found["flux_fast_schedule"] is True
    assert found["assistant_lora_path"] == "ostris/FLUX.1-schnell-training-adapter"
    assert found["tokenizer_max_length"] == 256
    assert found["validation_num_inference_steps"] == 4


def test_bases_without_distillation_are_validated_with_real_guidance():
    for flavour in ("fluxbooru", "libreflux"):
        found = defaults({"model_flavour": flavour})
        assert (found["validation_num_inference_steps"], found["validation_guidance_real"]) == (28, 6.0)


def test_what_would_spoil_a_flavour_is_a_problem():
    assert list(unmet("flux", "schnell", {"flux_fast_schedule": True})) == []
    (problem,) = unmet("flux", "schnell", {"flux_fast_schedule": False})
    assert str(problem) == (
        "flux_fast_schedule: model_flavour 'schnell' is spoiled by training without it; set it to true"
    )


def test_only_kontext_looks_at_other_pictures():
    assert [name for name in FAMILIES["flux"].flavours if takes_references("flux", name)] == ["kontext"]


def test_a_flavour_of_another_family_is_refused_with_the_flavours_there_are():
    with pytest.raises(ValueError, match="'schnell' is not of the family chroma; its flavours are base, hd, flash"):
        Model(model_family="chroma", model_flavour="schnell")
    assert set(FLAVOURS) == {name for family in FAMILIES.values() for name in family.flavours}


def test_the_licence_is_that_of_the_flavour():
    flux = FAMILIES["flux"]
    assert flux.licence_of(Model(model_flavour="schnell").weights()) == {"license": "apache-2.0"}
    assert flux.licence_of(Model(model_flavour="dev").weights())["license_name"] == "flux-1-dev-non-commercial-license"
