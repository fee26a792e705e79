"""What a data file asks for and does not get is said in one line for each option, with the reason."""

from pathlib import Path
from typing import Any

import pytest

from simpletuner.data.options import DataDefaults
from simpletuner.data.remarks import remarks

from .files import entries, image, latents, texts


def told(*raw: dict[str, Any], **defaults: Any) -> list[str]:
    return remarks(entries(*raw), DataDefaults(**defaults))


def idle(*raw: dict[str, Any], **defaults: Any) -> set[str]:
    """The options of the data set 'x' that do nothing."""
    return {
        one.partition(" has no effect: ")[0].removeprefix("data set 'x' › ")
        for one in told(*raw, **defaults)
        if one.startswith("data set 'x' › ")
    }


def mask(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return image(resolution=512, crop=True), image("x", conditioning_type="mask", source_dataset_id="subject") | options


def test_options_that_never_act_are_told() -> None:
    (notice,) = told(image(preserve_data_backend_cache=True))
    assert notice.startswith("data set 'subject' › preserve_data_backend_cache has no effect: data sets are rescanned")
    (notice,) = told(image(), latents("i", type="memory", cache_dir="x"))
    assert notice.startswith("data set 'i' › cache_dir has no effect: the cache is kept in memory")


def test_a_mask_follows_its_image_in_everything() -> None:
    assert told(*mask(repeats=5)) == ["data set 'x' › repeats has no effect: a mask is used whenever its image is"]
    given = {"repeats": 5, "caption_strategy": "textfile", "resolution": 256, "probability": 0.1, "start_epoch": 3,
             "max_num_samples": 4, "cache_dir_vae": "cache", "alpha_mask": True}  # fmt: skip
    assert idle(*mask(**given)) == set(given)


def test_a_mask_may_say_the_same_as_its_image() -> None:
    assert told(*mask(resolution=512, crop=True, repeats=0, probability=1)) == []
    assert idle(*mask(resolution=512, crop=True, crop_style="center")) == {"crop_style"}


@pytest.mark.parametrize(
    ("options", "without_effect"),
    [
        ({"target_downsample_size": 512}, {"target_downsample_size"}),
        ({"target_downsample_size": 512, "maximum_image_size": 600}, set()),
        ({"crop": True, "crop_aspect_buckets": [1, 2]}, {"crop_aspect_buckets"}),
        ({"crop": True, "crop_aspect": "closest", "crop_aspect_buckets": [1, 2]}, set()),
        ({"crop_aspect": "closest", "crop_aspect_buckets": [1, 2]}, {"crop_aspect", "crop_aspect_buckets"}),
        ({"crop_aspect": "square"}, set()),
        ({"crop": True, "crop_aspect": "preserve", "aspect_bucket_rounding": 1}, set()),
        ({"crop": True, "aspect_bucket_rounding": 1}, {"aspect_bucket_rounding"}),
        ({"aspect_bucket_rounding": 1}, set()),
        ({"bucket_mode": "kohya", "aspect_bucket_rounding": 1, "crop_aspect": "preserve"},
         {"aspect_bucket_rounding", "crop_aspect"}),
        ({"bucket_mode": "kohya", "min_bucket_reso": 512, "max_bucket_reso": 2048}, set()),
        ({"bucket_mode": "kohya", "min_bucket_reso": 512, "bucket_no_upscale": True}, {"min_bucket_reso"}),
        ({"dataset_type": "eval", "repeats": 3, "probability": 0.5, "start_epoch": 2},
         {"repeats", "probability", "start_epoch"}),
        ({"dataset_type": "eval", "probability": 0, "repeats": 0}, set()),
        ({"dataset_type": "eval", "alpha_mask": True}, {"alpha_mask"}),
        ({"caption_pipeline": {"variants": 5}}, {"caption_pipeline › variants"}),
        ({"caption_pipeline": {"variants": 5, "shuffle_caption": True, "keep_tokens": 1}}, set()),
        ({"caption_pipeline": {"variants": 5, "enable_wildcard": True, "keep_tokens": 1}},
         {"caption_pipeline › keep_tokens"}),
        ({"caption_pipeline": {"token_warmup_min": 2}}, {"caption_pipeline › token_warmup_min"}),
        ({"caption_shuffle": {"count": 3}}, {"caption_shuffle › count"}),
        ({"caption_shuffle": {"count": 3, "enable": True}}, set()),
        ({"only_instance_prompt": True, "instance_prompt": "a", "caption_strategy": "textfile"}, {"caption_strategy"}),
        ({"only_instance_prompt": True, "instance_prompt": "a", "caption_strategy": "instanceprompt"}, set()),
        ({"caption_strategy": "instanceprompt", "instance_prompt": "a", "caption_fallback": "b",
          "prepend_instance_prompt": True}, {"caption_fallback", "prepend_instance_prompt"}),
        ({"caption_extension": ".caption"}, {"caption_extension"}),
        ({"caption_extension": ".caption", "caption_strategy": "textfile"}, set()),
        ({"conditioning": [{"type": "random_masks", "conditioning_type": "mask", "captions": "x"}]},
         {"conditioning › random_masks › captions"}),
        ({"conditioning": [{"type": "jpeg", "conditioning_type": "reference_strict", "captions": "x"}]}, set()),
        ({"vae_cache_ondemand": True, "vae_cache_disable": True}, {"vae_cache_ondemand"}),
        ({"vae_cache_ondemand": True, "vae_cache_disable": False}, set()),
        ({"vae_cache_disable": True, "cache_dir_vae": "cache/x"}, {"cache_dir_vae"}),
        ({"vae_cache_clear_each_epoch": True}, set()),
        ({"vae_cache_clear_each_epoch": True, "crop_style": "center"}, {"vae_cache_clear_each_epoch"}),
        ({"is_regularisation_data": True, "regularisation_mode": "prior", "match_count": True, "repeats": 2},
         {"repeats"}),
        ({"cache_dir": "cache/x"}, {"cache_dir"}),
        ({"source_dataset_id": "subject"}, {"source_dataset_id"}),
    ],
    ids=lambda given: str(sorted(given)) if isinstance(given, set) else str(given),
)  # fmt: skip
def test_options_that_do_nothing_beside_others_are_told(options: dict[str, Any], without_effect: set[str]) -> None:
    assert idle(image(), image("x", **options)) == without_effect


def test_each_option_is_told_once() -> None:
    options = {"dataset_type": "eval", "vae_cache_clear_each_epoch": True, "crop_style": "corner"}
    found = told(image(), image("x", instance_data_dir="elsewhere", **options))
    assert found == ["data set 'x' › vae_cache_clear_each_epoch has no effect: crop_style corner draws no crops"]


def test_a_cache_that_is_off_is_not_on_demand() -> None:
    why = "has no effect: with text_cache_disable, captions are encoded when they are needed too"
    assert told(image(), text_cache_ondemand=True, text_cache_disable=True) == [f"text_cache_ondemand {why}"]
    both = texts("x", text_cache_ondemand=True, text_cache_disable=True, cache_dir="cache/x")
    assert told(image(), both) == [
        f"data set 'x' › text_cache_ondemand {why}",
        "data set 'x' › cache_dir has no effect: text_cache_disable keeps nothing",
    ]


def test_versions_and_collections_of_a_data_set_on_this_machine_are_told(tmp_path: Path) -> None:
    hub = {"id": "x", "type": "huggingface", "dataset_name": str(tmp_path), "caption_strategy": "huggingface"}
    assert idle(hub | {"revision": "v1", "subset": "a"}) == {"revision"}
    assert idle(hub | {"huggingface": {"revision": "v1"}}) == {"huggingface › revision"}
    (tmp_path / "state.json").touch()
    assert idle(hub | {"revision": "v1", "subset": "a"}) == {"revision", "subset"}
    assert idle(hub | {"dataset_name": "owner/name", "revision": "v1"}) == set()


def test_images_that_are_used_twice_in_two_ways_are_told() -> None:
    (measured,) = told(image(), image("e", dataset_type="eval"))
    assert measured.startswith("data set 'e' has the images that 'subject' trains on")
    (kept,) = told(image(), image("r", is_regularisation_data=True))
    assert kept.startswith("data set 'r' keeps the model as it is on the images that 'subject' trains on")
    inner = image("r", instance_data_dir="datasets/subject/more", is_regularisation_data=True)
    (nested,) = told(image(), inner)
    assert nested.startswith(
        "data set 'r' › instance_data_dir lies in the folder of data set 'subject', which has these"
    )


def test_images_may_be_used_twice_in_one_way() -> None:
    elsewhere = image("r", instance_data_dir="datasets/subject-2", dataset_type="eval")
    inner = image("i", instance_data_dir="datasets/subject/more")
    assert told(image(), image("b", resolution=512), elsewhere) == told(image(recursive=False), inner) == []
    assert told(image(), image("e", dataset_type="eval", probability=0)) == []
