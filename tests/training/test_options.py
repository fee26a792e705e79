"""What the options of a run mean once they are read."""

import pytest
from pydantic import ValidationError

from simpletuner.training.options import Duration, Objective, Optimization, Tracking, Validation


@pytest.mark.parametrize(
    ("value", "sizes"),
    [
        (1024, ((1024, 1024),)),
        ("1024x768", ((1024, 768),)),
        ("512, 768x512", ((512, 512), (768, 512))),
        ([512, "768x512"], ((512, 512), (768, 512))),
        (1.05, ((1024, 1024),)),
        ("0.25", ((496, 496),)),
        ("1030", ((1024, 1024),)),
        (128, ((128, 128),)),
        ("128x128", ((128, 128),)),
        ("64x64", ((64, 64),)),
    ],
)
def test_validation_sizes_are_pixels_or_megapixels(value: object, sizes: tuple[tuple[int, int], ...]) -> None:
    assert Validation.model_validate({"validation_resolution": value}).sizes() == sizes


@pytest.mark.parametrize("value", ["big", "0", "-512", "512x", "512x512x512", "1e9", "", ","])
def test_what_is_no_size_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="is not a size; write 1024 or 1024x768"):
        Validation.model_validate({"validation_resolution": value})


@pytest.mark.parametrize("value", [64, "127"])
def test_an_edge_that_would_be_megapixels_is_refused_with_the_way_to_write_it(value: object) -> None:
    with pytest.raises(ValidationError, match=f"would be megapixels; for an edge in pixels write {value}x{value}"):
        Validation.model_validate({"validation_resolution": value})


@pytest.mark.parametrize(
    ("value", "trackers"),
    [
        ("none", []),
        ("all", ["tensorboard", "wandb"]),
        ("wandb", ["wandb"]),
        ("wandb,tensorboard", ["tensorboard", "wandb"]),
        (["wandb"], ["wandb"]),
        (None, []),
        ("", []),
    ],
)
def test_several_trackers_may_be_named(value: object, trackers: list[str]) -> None:
    assert list(Tracking.model_validate({"report_to": value}).trackers()) == trackers


def test_the_word_none_is_no_prompt() -> None:
    assert Validation(validation_prompt="None").validation_prompt is None


@pytest.mark.parametrize("value", ["true", "default", "image", True])
def test_the_collection_of_prompts_may_be_asked_for_by_name(value: object) -> None:
    assert Validation.model_validate({"validation_prompt_library": value}).validation_prompt_library


def test_another_word_than_a_name_of_the_collection_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be true or false, got 'mine'"):
        Validation.model_validate({"validation_prompt_library": "mine"})


@pytest.mark.parametrize("given", ["[1.0, 0.5]", "1,0.5", [1, 0.5]])
def test_a_list_may_be_written_as_json_in_a_text(given: object) -> None:
    assert Objective.model_validate({"flow_custom_timesteps": given}).flow_custom_timesteps == (1.0, 0.5)


@pytest.mark.parametrize("given", [{"max_train_steps": 0}, {}, {"max_train_steps": 0, "num_train_epochs": "3"}])
def test_zero_steps_leave_the_length_to_the_epochs(given: dict[str, object]) -> None:
    assert not Duration.model_validate(given).max_train_steps


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("eps=1e-8,amsgrad=True", {"eps": 1e-8, "amsgrad": True}),
        (" weight_decay = 0.05 , mode = fast ", {"weight_decay": 0.05, "mode": "fast"}),
        ('{"betas": [0.9, 0.99]}', {"betas": [0.9, 0.99]}),
        ("", None),
    ],
)
def test_settings_of_an_optimizer_are_typed_by_their_look(text: str, settings: object) -> None:
    assert Optimization.model_validate({"optimizer_config": text}).optimizer_config == settings
