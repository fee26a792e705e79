"""Reading a data file: lenient about how values are written, strict about names, and told all at once."""

from pathlib import Path
from typing import Any

import pytest

from simpletuner.data.entries import missing_folders, read_entries
from simpletuner.data.sources import DataBackend, TextEmbeds

from .files import complaints, entries, first, image, texts


def test_a_text_cache_is_made_when_there_is_none() -> None:
    cache = entries(image())[1]
    assert isinstance(cache, TextEmbeds)
    assert (cache.id, cache.default) == ("text-embeds", True)


def test_the_first_text_cache_becomes_the_default_when_none_is() -> None:
    found = entries(image(), texts("a"), texts("b"))
    assert [entry.default for entry in found if isinstance(entry, TextEmbeds)] == [True, False]


def test_numbers_and_switches_may_be_written_as_text() -> None:
    entry = first(image(resolution="1.0", crop="true", repeats="3", probability="", max_workers=None))
    assert (entry.resolution, entry.crop, entry.repeats, entry.probability) == (1.0, True, 3, 1.0)


def test_an_id_may_be_a_number() -> None:
    assert first(image(id=7)).id == "7"


def test_disabled_entries_are_dropped_however_wrong_they_are() -> None:
    found = entries(
        image(), {"id": "x", "disabled": True, "nonsense": 1}, {"disable": "true"}, image("b", disabled=False)
    )
    assert [entry.id for entry in found] == ["subject", "b", "text-embeds"]


def test_a_home_folder_may_be_written_short() -> None:
    assert first(image(instance_data_dir="~/pictures", cache_dir_vae="~/vae")).cache_dir_vae == Path.home() / "vae"


def test_a_blank_separates_tags_too() -> None:
    pipeline = first(image(caption_pipeline={"caption_separator": " ", "caption_prefix": " a "})).caption_pipeline
    assert pipeline is not None and (pipeline.caption_separator, pipeline.caption_prefix) == (" ", "a")


def test_other_spellings_work() -> None:
    assert first(image(is_regularisation_data=True)).is_regularisation_data
    assert first(image(is_regularization_data=True)).is_regularisation_data
    assert first(image(text_embed_cache="t"), texts("t")).text_embeds == "t"
    assert first(image(conditioning_type="mask")).dataset_type == "conditioning"


def test_capitals_do_not_matter_in_what_is_chosen() -> None:
    entry = first(image(type="Local", dataset_type="Image", crop=True, crop_style="Center", resolution_type="Pixel"))
    assert (entry.type, entry.dataset_type, entry.crop_style) == ("local", "image", "center")
    cache = entries(image(), texts("a", dataset_type="Text_Embeds", type="LOCAL"))[1]
    assert isinstance(cache, TextEmbeds) and (cache.dataset_type, cache.type) == ("text_embeds", "local")


def test_placeholders_are_filled_in_everywhere() -> None:
    raw = [image(cache_dir_vae="{output_dir}/vae/{model_family}/{id}", instance_prompt=["{id}"])]
    (entry, _), _ = read_entries(raw, placeholders={"output_dir": "out", "model_family": "flux"})
    assert isinstance(entry, DataBackend)
    assert entry.cache_dir_vae == Path("out/vae/flux/subject")
    assert entry.instance_prompt == ("subject",)


def test_secrets_are_shown_neither_by_an_entry_nor_by_what_is_said_about_it() -> None:
    login = {"aws_access_key_id": "KEY", "aws_secret_access_key": "SECRET"}
    bucket = {"id": "a", "type": "aws", "aws_bucket_name": "b", **login}
    assert "SECRET" not in repr(first(bucket)) and "KEY" not in repr(first(bucket))
    told = " ".join(complaints(bucket | {"aws_bucket_nam": "x", "repeats": -1}, texts("t", type="aws", **login)))
    assert told and "SECRET" not in told and "KEY" not in told


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ([image(resoluton=1)], "data set 'subject' › resoluton: there is no option of this name; did you mean "
                               "'resolution'? see documentation/DATALOADER.md"),
        ([{"id": "a", "type": "locl"}], "data set 'a' › type: no data backend is called 'locl'; did you mean 'local'? "
                                        "the choices are local, aws, csv, huggingface, webshart, memory"),
        ([{"id": "a"}], "data set 'a' › instance_data_dir: is required"),
        ([image(instance_data_dir="")], "data set 'subject' › instance_data_dir: is required"),
        ([{"instance_data_dir": "x"}], "data set number 1 › id: is required"),
        ([image(id="")], "data set number 1 › id: is required"),
        (["a"], "data set number 1: must be an object in braces, got 'a'"),
        ([image(id="a" * 101)], f"data set '{'a' * 101}' › id: must have at most 100 characters, got 101"),
        ([image(id="a\0b")], "data set 'a\0b' › id: must have no line breaks or other invisible characters, got "
                             "'a\\x00b'"),
        ([image(), texts("a\nb")], "data set 'a\nb' › id: must have no line breaks or other invisible characters, got "
                                   "'a\\nb'"),
        ([image(conditioning={"type": "jpeg", "conditioning_type": "mask", "captions": 5})],
         "data set 'subject' › conditioning › 0 › captions: must be false, a text or a list of texts, got 5"),
        ([image(repeats=-1)], "data set 'subject' › repeats: must be at least 0, got -1"),
        ([image(repeats=10**9)], "data set 'subject' › repeats: must be at most 1000000, got 1000000000"),
        ([image(repeats=1.5)], "data set 'subject' › repeats: must be a whole number, got 1.5"),
        ([image(resolution="big")], "data set 'subject' › resolution: must be a number, got 'big'"),
        ([image(resolution=0)], "data set 'subject' › resolution: must be above 0, got 0"),
        ([image(max_num_samples=0)], "data set 'subject' › max_num_samples: must be at least 1, got 0"),
        ([image(crop_style="top")], "data set 'subject' › crop_style: no crop style is called 'top'; the choices are "
                                    "random, center, centre, corner, face"),
        ([image(delete_unwanted_images=True)], "data set 'subject' › delete_unwanted_images: your images are never "
                                               "deleted; unwanted ones are left out and listed in the skip list"),
        ([image(disable_vae_cache=True)],
         "data set 'subject': disable_vae_cache was removed; use vae_cache_disable"),
        ([image(caption_pipeline={"keep_token": 1})], "data set 'subject' › caption_pipeline › keep_token: there is no "
                                                      "option of this name; see documentation/DATALOADER.md"),
        ([image(), image("m", conditioning_type="msk", source_dataset_id="subject")],
         "data set 'm' › conditioning_type: no conditioning type is called 'msk'; did you mean 'mask'? the choices "
         "are mask, segmentation, reference_strict, reference_loose, controlnet"),
        ([image(conditioning={"type": "cany", "conditioning_type": "controlnet"})],
         "data set 'subject' › conditioning › type: no generator is called 'cany'; did you mean 'canny'? the choices "
         "are superresolution, super_resolution, lowres, jpeg_artifacts, jpeg, compression, canny, edges, "
         "random_masks, masks, inpainting"),
        ([image(), texts("t", type="aws")],
         "data set 't' › aws_bucket_name: is required by type aws: the bucket that the cache is in"),
        ([image(), {"id": "m", "type": "memory"}],
         "data set 'm' › type: 'memory' keeps caches, not images; use type local for these images, on a memory disk "
         "if you like, or set dataset_type to text_embeds or image_embeds if this is a cache"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place_and_its_remedy(raw: list[Any], complaint: str) -> None:
    _, wrong = read_entries(raw)
    assert [str(problem) for problem in wrong] == [complaint]


@pytest.mark.parametrize("raw", [{}, [], "x", None])
def test_a_data_file_must_be_a_list(raw: object) -> None:
    _, wrong = read_entries(raw)
    assert [str(problem) for problem in wrong] == ["data file: must be a list with at least one data set in it"]


@pytest.mark.parametrize("raw", [{"id": "a", "instance_data_dir": "x"}, {"datasets": []}])
def test_data_sets_without_a_list_around_them_are_told_so(raw: object) -> None:
    _, wrong = read_entries(raw)
    assert [problem.what for problem in wrong] == [
        "must be a list with at least one data set in it, and is an object: put the data sets into [ and ]"
    ]


def test_a_data_file_with_nothing_but_disabled_entries_is_told() -> None:
    _, wrong = read_entries([image(disabled=True)])
    assert [problem.what for problem in wrong] == ["every data set in it is disabled; take disabled out of one of them"]


def test_comments_are_passed_over_as_in_a_config() -> None:
    entries, wrong = read_entries([image(_comment="mine", **{"$schema": "x"})])
    assert (wrong, entries[0].id) == ([], "subject")


def test_options_as_sd_scripts_has_them_are_shown_their_place() -> None:
    _, wrong = read_entries([image("a", shuffle_caption=True, nonsense=1), {"id": "b", "image_dir": "x"}])
    assert [str(problem) for problem in wrong[:3]] == [
        "data set 'a' › shuffle_caption: belongs into caption_pipeline, an object of its own in this entry; move it "
        "there",
        "data set 'a' › nonsense: there is no option of this name; see documentation/DATALOADER.md",
        "data set 'b' › image_dir: is called instance_data_dir here",
    ]


def test_every_mistake_is_told_at_once() -> None:
    assert len(complaints(image("a", nonsense=1, crop_style="top"), {"id": "b", "type": "x"}, image("a"))) == 3


def test_generators_that_are_not_served_are_told_beside_those_that_cannot_be_read() -> None:
    told = complaints(image(conditioning=[{"type": "depth", "conditioning_type": "mask"}, {}, 5, {"type": "cany"}]))
    assert [one.partition(":")[0].removeprefix("data set 'subject' › conditioning › ") for one in told] == [
        "1 › type", "2", "type", "type",
    ]  # fmt: skip
    assert "'depth' is not served yet" in told[2] and "did you mean 'canny'?" in told[3]


def test_all_missing_folders_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    raw = [image("a", instance_data_dir=str(tmp_path / name)) | {"id": name} for name in ("one", "file", ".")]
    problems = [str(problem) for problem in missing_folders(entries(*raw))]
    assert problems == [
        f"data set 'one' › instance_data_dir: there is no folder {tmp_path}/one; make it and put your images there, "
        f"or name another one",
        f"data set 'file' › instance_data_dir: {tmp_path}/file is a file, not a folder; name the folder that your "
        f"images are in",
    ]


HUB = {"id": "hub", "type": "huggingface", "dataset_name": "RareConcepts/Domokun", "metadata_backend": "huggingface",
       "caption_strategy": "huggingface", "huggingface": {"caption_column": "text", "filter_func": {"min_width": 64}},
       "cache_dir_vae": "cache/vae/{model_family}", "vae_cache_clear_each_epoch": False}  # fmt: skip
CANNY = {"type": "canny", "conditioning_type": "controlnet", "captions": ["minecraft"]}
SHARPER = {"type": "superresolution", "conditioning_type": "reference_strict", "captions": "x"}


@pytest.mark.parametrize(
    "raw",
    [
        HUB | {"crop": True, "crop_aspect": "square", "crop_style": "random", "resolution": 512,
               "minimum_image_size": 128, "maximum_image_size": 512, "target_downsample_size": 512,
               "resolution_type": "pixel", "caption_strategy": "instanceprompt", "instance_prompt": "🟫"},
        HUB | {"repeats": 4, "conditioning": CANNY},
        HUB | {"conditioning": [SHARPER]},
        image(dataset_type="eval"),
        image(caption_shuffle={"enable": True, "count": 2, "split_on": "comma"}),
        image(crop_aspect="closest", crop_aspect_buckets=[1.0, 0.5, {"aspect": 2.0, "weight": 0.5}]),
        image(metadata_backend="parquet", parquet={"path": "a.parquet", "caption_column": "c"}),
        image(crop_style="face", end_epoch=3),
        {"id": "w", "type": "webshart", "source": "x", "hf_token": "secret", "shard_cache_gb": 2},
        {"id": "c", "type": "csv", "csv_file": "a", "csv_cache_dir": "b", "csv_caption_column": "c",
         "caption_strategy": "csv"},
        {"id": "s", "type": "aws", "aws_bucket_name": "b", "aws_data_prefix": "p", "aws_endpoint_url": "https://x.y"},
        texts("m", type="memory", memory_filesystem_size="8G"),
        {"id": "c", "dataset_type": "conditioning_image_embeds", "cache_dir": "x"},
        texts("t", caption_filter_list="filter.txt", write_batch_size=128),
    ],
)  # fmt: skip
def test_every_kind_of_entry_in_use_is_understood(raw: dict[str, Any]) -> None:
    entries(raw)
