"""From `conditioning` in the data file to data sets, or to everything that is wrong with it."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from simpletuner.data.generators import Canny, JpegArtifacts, RandomMasks, SuperResolution
from simpletuner.data.generators.expansion import expand, missing
from simpletuner.data.generators.source import Generated
from simpletuner.data.sources import DataEntry, ImageEmbeds, Local, TextEmbeds

pytest.importorskip("cv2")


def entry(*conditioning: dict[str, Any], **options: Any) -> Local:
    whole = {"id": "cats", "instance_data_dir": "images", "conditioning": list(conditioning), **options}
    return Local.model_validate(whole)


def made(*conditioning: dict[str, Any], **options: Any) -> list[Generated]:
    entries, wrong = expand([entry(*conditioning, **options)])
    assert wrong == []
    return [one for one in entries if isinstance(one, Generated)]


def problems(*conditioning: dict[str, Any], **options: Any) -> list[str]:
    entries, wrong = expand([entry(*conditioning, **options)])
    assert [type(one) for one in entries if one.id != "cats"] == []
    return [str(one) for one in wrong]


CANNY = {"type": "canny", "conditioning_type": "controlnet"}


def test_a_data_set_without_generators_stays_as_it_is() -> None:
    entries: list[DataEntry] = [entry(), TextEmbeds(id="text", default=True)]
    assert expand(entries) == (tuple(entries), [])


def test_each_generator_makes_a_data_set_that_belongs_to_its_own() -> None:
    masks = {"type": "random_masks", "conditioning_type": "mask"}
    cats, other = entry(CANNY, masks), Local(id="other", instance_data_dir=Path("more"))
    entries, wrong = expand([cats, other])
    assert wrong == []
    assert [one.id for one in entries] == ["cats", "cats_conditioning_canny", "cats_conditioning_random_masks", "other"]
    assert entries[0] is cats
    first, second = (one for one in entries if isinstance(one, Generated))
    assert (first.dataset_type, first.conditioning_type, first.source_dataset_id) == (
        "conditioning",
        "controlnet",
        "cats",
    )
    assert (first.made_from, first.generator) == (cats, Canny())
    assert (second.conditioning_type, second.generator) == ("mask", RandomMasks())


def test_expanding_twice_changes_nothing() -> None:
    entries, _ = expand([entry(CANNY, CANNY), ImageEmbeds(id="vae")])
    assert expand(entries) == (entries, [])


def test_the_same_generator_twice_makes_two_data_sets() -> None:
    ids = [one.id for one in made(CANNY, {**CANNY, "low_threshold": 10}, {**CANNY, "type": "edges"})]
    assert ids == ["cats_conditioning_canny", "cats_conditioning_canny_2", "cats_conditioning_edges"]


@pytest.mark.parametrize(
    "settings",
    [
        {"params": {"quality": 5, "compression_rounds": 3}},
        {"quality": 5, "compression_rounds": 3},
        {"quality": "5", "params": {"compression_rounds": 3}},
        {"quality": 5, "compression_rounds": 3, "subsampling": None, "params": {"quality_mode": None}},
    ],
)
def test_settings_stand_in_params_or_beside_the_type(settings: dict[str, Any]) -> None:
    (found,) = made({"type": "jpeg", "conditioning_type": "reference_strict", **settings})
    assert found.generator == JpegArtifacts(quality=5, compression_rounds=3)


def test_images_to_measure_with_can_have_pairs_too() -> None:
    assert len(made(CANNY, dataset_type="eval")) == 1


def test_pictures_are_cropped_and_captioned_as_their_images() -> None:
    options = {
        **{"resolution": 512, "crop": True, "crop_style": "corner", "maximum_aspect_ratio": 2, "bucket_mode": "kohya"},
        **{"caption_strategy": "textfile", "caption_extension": ".caption", "caption_shuffle": {"enable": True}},
        **{"text_embeds": "texts", "vae_cache_disable": True, "repeats": 9, "is_regularisation_data": True},
    }
    (found,) = made(CANNY, **options)
    wanted = entry(CANNY, **options)
    for name in set(options) - {"repeats", "is_regularisation_data"}:
        assert found.__dict__[name] == wanted.__dict__[name], name
    assert (found.repeats, found.is_regularisation_data) == (0, False)


@pytest.mark.parametrize(
    ("captions", "prompts"),
    [(False, ("",)), ("edges", ("edges",)), (["edges", "lines"], ("edges", "lines"))],
)
def test_pictures_can_have_captions_of_their_own_or_none(captions: object, prompts: tuple[str, ...]) -> None:
    (found,) = made({**CANNY, "captions": captions}, caption_strategy="textfile", caption_shuffle={"enable": True})
    assert (found.caption_strategy, found.instance_prompt, found.only_instance_prompt) == (
        "instanceprompt",
        prompts,
        True,
    )
    assert found.caption_shuffle is None


@pytest.mark.parametrize("captions", [None, True, ""])
def test_pictures_have_the_captions_of_their_images_unless_told_otherwise(captions: object) -> None:
    (found,) = made({**CANNY, "captions": captions}, caption_strategy="textfile")
    assert (found.caption_strategy, found.instance_prompt) == ("textfile", None)


def test_pictures_have_a_cache_of_their_own() -> None:
    assert made(CANNY)[0].cache_dir_vae is None
    assert made(CANNY, cache_dir_vae="cache/vae/cats")[0].cache_dir_vae == Path("cache/vae/cats_conditioning_canny")


def test_only_what_is_its_own_counts_as_given() -> None:
    (found,) = made(CANNY, resolution=512, hash_filenames=False)
    assert found.resolution == 512
    assert not {"resolution", "hash_filenames", "made_from"} & found.model_fields_set


def test_the_config_that_is_written_down_holds_the_generator_as_the_user_wrote_it() -> None:
    entries, _ = expand([entry({**CANNY, "low_threshold": 10, "params": {"high_threshold": 90}})])
    again = Local.model_validate(entries[0].model_dump(mode="json", exclude_none=True))
    assert expand([again])[0] == entries


@pytest.mark.parametrize(
    ("conditioning", "expected"),
    [
        (
            {"type": "canny", "conditioning_type": "controlnet", "low_treshold": 5},
            "canny › low_treshold: there is no option of this name; did you mean 'low_threshold'? "
            "see documentation/DATALOADER.md",
        ),
        (
            {"type": "canny", "conditioning_type": "controlnet", "params": {"high_threshold": "much"}},
            "canny › high_threshold: must be a number, got 'much'",
        ),
        (
            {"type": "canny", "conditioning_typ": "controlnet", "conditioning_type": "mask"},
            "canny › conditioning_typ: there is no option of this name; did you mean 'conditioning_type'? "
            "see documentation/DATALOADER.md",
        ),
        (
            {"type": "jpeg", "conditioning_type": "reference_strict", "quality": 5, "params": {"quality": 6}},
            "jpeg › quality: stands in params too; keep one of the two",
        ),
        (
            {"type": "jpeg", "conditioning_type": "reference_strict", "quality_range": [50, 10]},
            "jpeg › quality_range: 50 is more than 10; write the lower quality first",
        ),
        (
            {"type": "cany", "conditioning_type": "controlnet"},
            "type: no generator is called 'cany'; did you mean 'canny'? the choices are superresolution, "
            "super_resolution, lowres, jpeg_artifacts, jpeg, compression, canny, edges, random_masks, masks, "
            "inpainting",
        ),
        (
            {"type": "depth", "conditioning_type": "controlnet"},
            "type: 'depth' is not served yet; make these pictures beforehand and list their folder as a data set of "
            "its own, with conditioning_type",
        ),
        (
            {"type": "optical_flow", "conditioning_type": "controlnet"},
            "type: 'optical_flow' is not served yet; FLUX is trained on still images in ordinary colours",
        ),
        (
            {"type": "lowres"},
            "lowres › conditioning_type: is required; for lowres it is mostly reference_strict, and the choices are "
            "mask, segmentation, reference_strict, reference_loose, controlnet",
        ),
        (
            {"type": "canny", "conditioning_type": "controlnet", "source_dataset_id": "dogs"},
            "canny › source_dataset_id: pairs are made out of 'cats' itself; leave it out, or move conditioning to its "
            "entry",
        ),
    ],
)
def test_each_mistake_gets_a_message_that_says_where_and_what_to_change(
    conditioning: dict[str, Any], expected: str
) -> None:
    assert problems(conditioning) == [f"data set 'cats' › conditioning › {expected}"]


def test_its_own_id_as_source_is_fine() -> None:
    assert len(made({**CANNY, "source_dataset_id": "cats"})) == 1


def test_all_mistakes_are_told_at_once() -> None:
    found = problems({"type": "cany"}, {"type": "lowres", "blur_radius": -1, "blur_tipe": "box"}, {"type": "jpeg"})
    assert len(found) == 4


def test_conditioning_data_has_no_pairs_of_its_own() -> None:
    assert problems(CANNY, dataset_type="conditioning", conditioning_type="mask") == [
        "data set 'cats' › conditioning: is only for data sets of dataset_type image and eval; leave it out here"
    ]


def test_a_library_that_is_missing_is_told_beforehand() -> None:
    class Absent(SuperResolution):
        needs: ClassVar = {"no_such_module": "pip install 'simpletuner[vision]'"}

    assert list(missing(Absent())) == [("no_such_module", "pip install 'simpletuner[vision]'")]
    assert list(missing(SuperResolution())) == []
