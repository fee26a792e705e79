"""What is wrong with the entries of a data file, alone and together."""

from typing import Any

import pytest

from .files import complaints, image, latents, texts

PRIOR = {"is_regularisation_data": True, "regularisation_mode": "prior"}


@pytest.mark.parametrize(
    "raw",
    [
        [image()],
        [image("a"), image("b", resolution=512)],
        [image("a"), image("m", conditioning_type="mask", source_dataset_id="a", instance_data_dir="masks")],
        [image("a", conditioning_data="m"), image("m", conditioning_type="mask", instance_data_dir="masks")],
        [image("a", conditioning={"type": "canny", "conditioning_type": "controlnet"})],
        [image("a", crop_style="face"), image("e", dataset_type="eval")],
        [image("a", end_epoch=3), image("b", start_epoch=3, end_step=-1)],
        [image("a"), image("r", **PRIOR, prior_loss_weight=0.5, match_count=True)],
        [image("a"), image("r", is_regularisation_data=True)],
        [image("a", probability=0), image("b", start_epoch=1, start_step=1)],
        [image("a", text_embeds="t", image_embeds="i"), texts("t"), latents("i", cache_dir="x")],
        [image("a", bucket_mode="kohya", bucket_no_upscale=True)],
        [image("a", metadata_backend="parquet", parquet={"path": "x"}, caption_strategy="parquet")],
        [image("a", caption_strategy="instance_prompt", instance_prompt="x")],
    ],
)
def test_a_data_file_without_mistakes_is_not_complained_about(raw: list[dict[str, Any]]) -> None:
    assert complaints(*raw) == []


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ([image(), image()], "data set 'subject' › id: 2 entries are called 'subject'; give each one its own id"),
        ([image(), texts("subject")],
         "data set 'subject' › id: 2 entries are called 'subject'; give each one its own id"),
        ([texts("t")], "data file: has no data set with images; add one with type local and instance_data_dir"),
        ([image(dataset_type="eval")],
         "data file: has no data set with images; add one with type local and instance_data_dir"),
        ([image(dataset_type="video")],
         "data set 'subject' › dataset_type: 'video' is not served yet; FLUX is trained on images"),
        ([image(probability=0)], "data file: the probability of every data set is 0; give one of them a larger one"),
        ([image(probability=-1)], "data set 'subject' › probability: must be at least 0, got -1"),
        ([image(is_regularisation_data=True)],
         "data file: every data set is regularisation data, from which nothing new is learned; add one with what to "
         "learn"),
        ([image(resolution=1048576)], "data set 'subject' › resolution: 1048576 would be an edge in pixels, and a "
                                      "square of 13377 px is the largest; lower it"),
        ([image(), image("b", probability=-1)], "data set 'b' › probability: must be at least 0, got -1"),
        ([image(**PRIOR, match_count=True)],
         "data file: every data set has match_count, so there is none to be matched; add one without it"),
        ([image(), *(texts(id, default=True) for id in "ab")],
         "data set 'b' › default: 'a' is the default already; only one entry can be"),
        ([image(), *(latents(id, default=True) for id in "ab")],
         "data set 'b' › default: 'a' is the default already; only one entry can be"),
        ([image(text_embeds="no")], "data set 'subject' › text_embeds: no such entry is called 'no'; "
                                    "known are: text-embeds"),
        ([image(image_embeds="t"), texts("t")],
         "data set 'subject' › image_embeds: no such entry is called 't'; known are: there is none"),
        ([image("a", cache_dir_vae="c"), image("b", cache_dir_vae="c")],
         "data set 'b' › cache_dir_vae: c is used by 'a' too; choose another one"),
        ([image(cache_dir_vae="cache/t"), texts("t", cache_dir="cache/t")],
         "data set 'subject' › cache_dir_vae: cache/t is used by 't' too; choose another one"),
        ([image(resolution=1024, resolution_type="area")], "data set 'subject' › resolution: 1024 would be megapixels; "
                                                           "for an edge in pixels set resolution_type to pixel_area"),
        ([image(resolution=1.0)], "data set 'subject' › resolution: 1 would be an edge in pixels; for megapixels set "
                                  "resolution_type to area"),
        ([image(maximum_image_size=2048)],
         "data set 'subject' › maximum_image_size: needs target_downsample_size too: the size to shrink to"),
        ([image(minimum_aspect_ratio=2, maximum_aspect_ratio=1)],
         "data set 'subject' › minimum_aspect_ratio: 2 is more than maximum_aspect_ratio, 1"),
        ([image(crop=True, crop_aspect="closest")], "data set 'subject' › crop_aspect_buckets: is required by "
                                                    "crop_aspect closest: a list such as [0.75, 1.0, 1.5]"),
        ([image(bucket_no_upscale=True)], "data set 'subject' › bucket_no_upscale: acts only with bucket_mode kohya; "
                                          "add that, or leave this out"),
        ([image(caption_strategy="instanceprompt")],
         "data set 'subject' › instance_prompt: is required by caption_strategy instanceprompt"),
        ([image(prepend_instance_prompt=True)],
         "data set 'subject' › instance_prompt: is required by prepend_instance_prompt"),
        ([image(only_instance_prompt=True)],
         "data set 'subject' › instance_prompt: is required by only_instance_prompt"),
        ([image(caption_strategy="csv")],
         "data set 'subject' › caption_strategy: 'csv' needs type csv; this data set has type local"),
        ([image(caption_strategy="parquet")], "data set 'subject' › caption_strategy: 'parquet' needs metadata_backend "
                                              "parquet, and the table in parquet"),
        ([image(caption_extension=".PNG")],
         "data set 'subject' › caption_extension: '.PNG' is the ending of images; choose another one, such as .txt"),
        ([image(caption_shuffle={"enable": True}, caption_pipeline={"shuffle_caption": True})],
         "data set 'subject' › caption_shuffle: caption_pipeline changes captions too; take one of them, with "
         "shuffle_caption in it"),
        ([image(metadata_backend="parquet")], "data set 'subject' › parquet: is required by metadata_backend parquet: "
                                              "an object with path, filename_column and more"),
        ([image(parquet={"path": "x"})], "data set 'subject' › parquet: does nothing without metadata_backend parquet; "
                                         "set that too, or leave it out"),
        ([image(metadata_backend="webshart")],
         "data set 'subject' › metadata_backend: 'webshart' needs type webshart; this data set has type local"),
        ([image(regularisation_mode="prior")], "data set 'subject' › regularisation_mode: acts only with "
                                               "is_regularisation_data; set that, or leave this out"),
        ([image(prior_loss_weight=0.5)], "data set 'subject' › prior_loss_weight: needs is_regularisation_data and "
                                         "regularisation_mode prior; set both, or leave it out"),
        ([image(match_count=True), image("b")], "data set 'subject' › match_count: needs is_regularisation_data and "
                                                "regularisation_mode prior; set both, or leave it out"),
        ([image(), image("e", dataset_type="eval", is_regularisation_data=True)],
         "data set 'e' › is_regularisation_data: is for images to train on, and this is eval; leave it out"),
        ([image(), image("m", conditioning_type="mask")],
         "data set 'm' › dataset_type: belongs to no data set; name it in conditioning_data of one, or set "
         "source_dataset_id"),
        ([image(), image("m", conditioning_type="mask", source_dataset_id="subjet")],
         "data set 'm' › source_dataset_id: no such entry is called 'subjet'; known are: m, subject"),
        ([image(conditioning_data="m"), image("m", conditioning_type="mask")],
         "data set 'm' › instance_data_dir: has the images of 'subject' themselves, so that each would belong to "
         "itself; name another place"),
        ([image(), image("m", dataset_type="conditioning", source_dataset_id="subject", instance_data_dir="masks")],
         "data set 'm' › conditioning_type: is required; the choices are mask, segmentation, reference_strict, "
         "reference_loose, controlnet"),
        ([image(conditioning_data="b"), image("b")],
         "data set 'subject' › conditioning_data: 'b' has dataset_type image; give it a conditioning_type"),
        ([image(conditioning_data="no")],
         "data set 'subject' › conditioning_data: no such entry is called 'no'; known are: subject"),
        ([image(end_epoch=3, start_epoch=5), image("b")],
         "data set 'subject' › end_epoch: 3 is before start_epoch, 5; swap them"),
        ([image(end_step=3, start_step=5), image("b")],
         "data set 'subject' › end_step: 3 is before start_step, 5; swap them"),
        ([image(start_step=5), image("b", start_epoch=2)],
         "data file: no data set is used from the beginning; give one of them start_epoch 1 and start_step 0"),
        ([image(bbox=True)],
         "data set 'subject' › bbox: true is not served yet; leave it out: FLUX takes no boxes"),
        ([image(), texts("t", caption_filter_list=["s/(/x"])],
         "data set 't' › caption_filter_list: caption filters that are no regular expressions: 's/(/x' (missing ), "
         "unterminated subpattern at position 0); put a backslash in front of each bracket, star, plus or question "
         "mark that is meant as itself"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place_and_its_remedy(raw: list[Any], complaint: str) -> None:
    assert complaints(*raw) == [complaint]


def test_nothing_is_missed_while_other_entries_cannot_be_read() -> None:
    told = complaints(image("a", conditioning_data="m", text_embeds="t"), {"id": "m", "nonsense": 1}, {"id": "t"})
    assert {one.partition(":")[0] for one in told} == {
        "data set 'm' › nonsense", "data set 'm' › instance_data_dir", "data set 't' › instance_data_dir",
    }  # fmt: skip


def test_defaults_are_checked_with_each_data_set() -> None:
    assert complaints(image(), resolution=1, resolution_type="pixel") == [
        "data set 'subject' › resolution: 1 would be an edge in pixels; for megapixels set resolution_type to area"
    ]


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ([image(cache_dir_vae="datasets/subject/vae")], "data set 'subject' › cache_dir_vae"),
        (
            [image(), {"id": "t", "dataset_type": "text_embeds", "cache_dir": "datasets/subject"}],
            "data set 't' › cache_dir",
        ),
    ],
)
def test_nothing_may_be_written_among_pictures(raw: list[Any], place: str) -> None:
    (complaint,) = complaints(*raw)
    assert complaint.startswith(f"{place}: datasets/subject")
    assert "lies among the pictures of data set 'subject', where nothing is ever written" in complaint
