"""What a data file may say, and what is said about one that is wrong."""

from pathlib import Path
from typing import Any

import pytest

from simpletuner.data.geometry import Rules
from simpletuner.data.options import DataDefaults
from simpletuner.data.plan import (
    caption_rules,
    captions_folder,
    check_entries,
    geometry_rules,
    latents_folder,
    missing_folders,
    notices,
    read_entries,
)
from simpletuner.data.sources import DataBackend, DataEntry, TextEmbeds


def image(id: str = "subject", **options: Any) -> dict[str, Any]:
    return {"id": id, "instance_data_dir": "datasets/subject", **options}


def entries(*raw: dict[str, Any]) -> tuple[DataEntry, ...]:
    found, wrong = read_entries(list(raw))
    assert wrong == []
    return found


def first(*raw: dict[str, Any]) -> DataBackend:
    (entry, *_) = entries(*raw)
    assert isinstance(entry, DataBackend)
    return entry


def complaints(*raw: Any, **defaults: Any) -> list[str]:
    found, wrong = read_entries(list(raw))
    more = check_entries(found, DataDefaults(**defaults), complete=not wrong)
    return [str(problem) for problem in [*wrong, *more]]


def test_the_smallest_data_file_is_one_folder() -> None:
    assert complaints(image()) == []


def test_a_text_cache_is_made_when_there_is_none() -> None:
    cache = entries(image())[1]
    assert isinstance(cache, TextEmbeds)
    assert (cache.id, cache.default) == ("text-embeds", True)


def test_the_first_text_cache_becomes_the_default_when_none_is() -> None:
    found = entries(image(), {"id": "a", "dataset_type": "text_embeds"}, {"id": "b", "dataset_type": "text_embeds"})
    assert [entry.default for entry in found if isinstance(entry, TextEmbeds)] == [True, False]


def test_numbers_and_switches_may_be_written_as_text() -> None:
    entry = first(image(resolution="1.0", crop="true", repeats="3", probability="", max_workers=None))
    assert (entry.resolution, entry.crop, entry.repeats, entry.probability) == (1.0, True, 3, 1.0)


def test_disabled_entries_are_dropped_however_wrong_they_are() -> None:
    found = entries(
        image(), {"id": "x", "disabled": True, "nonsense": 1}, {"disable": "true"}, image("b", disabled=False)
    )
    assert [entry.id for entry in found] == ["subject", "b", "text-embeds"]


def test_both_spellings_of_regularisation_work() -> None:
    assert first(image(is_regularisation_data=True)).is_regularisation_data
    assert first(image(is_regularization_data=True)).is_regularisation_data


def test_placeholders_are_filled_in_everywhere() -> None:
    raw = [image(cache_dir_vae="{output_dir}/vae/{model_family}/{id}")]
    (entry, _), _ = read_entries(raw, placeholders={"output_dir": "out", "model_family": "flux"})
    assert isinstance(entry, DataBackend)
    assert entry.cache_dir_vae == Path("out/vae/flux/subject")


def test_secrets_are_not_shown() -> None:
    entry = first(
        {
            "id": "a",
            "type": "aws",
            "aws_bucket_name": "b",
            "aws_access_key_id": "KEY",
            "aws_secret_access_key": "SECRET",
        }
    )
    assert "SECRET" not in repr(entry) and "KEY" not in repr(entry)


def test_what_an_entry_leaves_open_comes_from_the_defaults() -> None:
    defaults = DataDefaults(resolution=0.5, resolution_type="area", caption_strategy="textfile", minimum_image_size=0.1)
    entry = first(image(minimum_image_size=0.2, crop=True))
    assert geometry_rules(entry, defaults) == Rules(0.5, "area", crop=True, minimum_image_size=0.2)
    assert caption_rules(entry, defaults).reads_text_files
    assert not caption_rules(first(image(caption_strategy="filename")), defaults).reads_text_files


def test_caches_go_where_the_entry_its_cache_or_the_defaults_say() -> None:
    caches = [
        {"id": "t", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/t"},
        {"id": "u", "dataset_type": "text_embeds", "cache_dir": "cache/u"},
        {"id": "i", "dataset_type": "image_embeds", "cache_dir": "cache/i"},
    ]
    raw = [image("a"), image("b", text_embeds="u", cache_dir_vae="cache/b"), image("c", image_embeds="i")]
    found, defaults, cache = entries(*raw, *caches), DataDefaults(), Path("root")
    images = [entry for entry in found if isinstance(entry, DataBackend)]
    assert [str(captions_folder(entry, found, defaults, cache=cache)) for entry in images] == [
        "cache/t",
        "cache/u",
        "cache/t",
    ]
    assert [str(latents_folder(entry, found, defaults, cache=cache)) for entry in images] == [
        "root/vae",
        "cache/b",
        "cache/i",
    ]


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ([image(resoluton=1)], "data set 'subject' › resoluton: there is no option of this name; did you mean "
                               "'resolution'? see documentation/DATALOADER.md"),
        ([{"id": "a", "type": "locl"}], "data set 'a' › type: no data backend is called 'locl'; did you mean 'local'? "
                                        "the choices are local, aws, csv, huggingface, webshart, memory"),
        ([{"id": "a"}], "data set 'a' › instance_data_dir: is required"),
        ([{"instance_data_dir": "x"}], "data set number 1 › id: is required"),
        (["a"], "data set number 1: must be an object in braces, got 'a'"),
        ([image(repeats=-1)], "data set 'subject' › repeats: must be at least 0, got -1"),
        ([image(), image()], "data set 'subject' › id: 2 entries are called 'subject'; give each one its own id"),
        ([{"id": "t", "dataset_type": "text_embeds"}],
         "data file: has no data set with images; add one with type local and instance_data_dir"),
        ([image(probability=0)], "data file: the probability of every data set is 0; give one of them a larger one"),
        ([image(), *({"id": id, "dataset_type": "text_embeds", "default": True} for id in "ab")],
         "data set 'b' › default: 'a' is the default already; only one entry can be"),
        ([image(text_embeds="no")], "data set 'subject' › text_embeds: no such entry is called 'no'; "
                                    "known are: text-embeds"),
        ([image("a", cache_dir_vae="c"), image("b", cache_dir_vae="c")],
         "data set 'b' › cache_dir_vae: c is used by 'a' too; choose another one"),
        ([image(cache_dir_vae="cache/t"), {"id": "t", "dataset_type": "text_embeds", "cache_dir": "cache/t"}],
         "data set 'subject' › cache_dir_vae: cache/t is used by 't' too; choose another one"),
        ([image(resolution=1024, resolution_type="area")], "data set 'subject' › resolution: 1024 would be megapixels; "
                                                           "for an edge in pixels set resolution_type to pixel_area"),
        ([image(resolution=1.0)], "data set 'subject' › resolution: 1 would be an edge in pixels; for megapixels set "
                                  "resolution_type to area"),
        ([image(maximum_image_size=2048)],
         "data set 'subject' › maximum_image_size: needs target_downsample_size too: the size to shrink to"),
        ([image(caption_strategy="instanceprompt")],
         "data set 'subject' › instance_prompt: is required by caption_strategy instanceprompt"),
        ([image(prepend_instance_prompt=True)],
         "data set 'subject' › instance_prompt: is required by prepend_instance_prompt"),
        ([image(delete_unwanted_images=True)], "data set 'subject' › delete_unwanted_images: your images are never "
                                               "deleted; unwanted ones are left out and listed in the skip list"),
        ([image(disable_vae_cache=True)],
         "data set 'subject': disable_vae_cache was removed; leave it out, the cache is filled before training"),
        ([image(), image("m", conditioning_type="mask")],
         "data set 'm' › conditioning_type: 'mask' is not served yet; set disabled on this data set: only plain image "
         "data sets are trained on so far"),
        ([image(crop_style="face")],
         "data set 'subject' › crop_style: 'face' is not served yet; use center, or crop the faces beforehand"),
        ([image(end_epoch=3)],
         "data set 'subject' › end_epoch: 3 is not served yet; leave it out: every data set takes part in the whole "
         "run"),
        ([image(conditioning={"type": "canny", "captions": ["minecraft"], "params": {"low_threshold": 50}})],
         "data set 'subject' › conditioning: ('canny',) is not served yet; leave it out: pairs are not made yet"),
        ([image(), {"id": "c", "type": "csv", "csv_file": "a", "csv_cache_dir": "b", "csv_caption_column": "c"}],
         "data set 'c' › type: 'csv' is not served yet; download the images to a folder and use type local"),
        ([image(), {"id": "t", "dataset_type": "text_embeds", "type": "aws"}],
         "data set 't' › type: 'aws' is not served yet; use type local; the cache is small beside the images"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place_and_its_remedy(raw: list[Any], complaint: str) -> None:
    assert complaints(*raw) == [complaint]


@pytest.mark.parametrize("raw", [{}, [], "x", None])
def test_a_data_file_must_be_a_list(raw: object) -> None:
    _, wrong = read_entries(raw)
    assert [str(problem) for problem in wrong] == ["data file: must be a list with at least one data set in it"]


def test_every_mistake_is_told_at_once() -> None:
    assert len(complaints(image("a", nonsense=1, crop_style="top"), {"id": "b", "type": "x"}, image("a"))) == 3


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


def test_options_without_effect_are_told() -> None:
    (notice,) = notices(entries(image(preserve_data_backend_cache=True)))
    assert notice.startswith("data set 'subject' › preserve_data_backend_cache has no effect: data sets are rescanned")


HUB = {"id": "hub", "type": "huggingface", "dataset_name": "RareConcepts/Domokun", "metadata_backend": "huggingface",
       "caption_strategy": "huggingface", "huggingface": {"caption_column": "text", "filter_func": {"min_width": 64}},
       "cache_dir_vae": "cache/vae/{model_family}", "vae_cache_clear_each_epoch": False}  # fmt: skip
CANNY = {"type": "canny", "conditioning_type": "controlnet", "captions": ["minecraft"]}


@pytest.mark.parametrize(
    "raw",
    [
        HUB | {"crop": True, "crop_aspect": "square", "crop_style": "random", "resolution": 512,
               "minimum_image_size": 128, "maximum_image_size": 512, "target_downsample_size": 512,
               "resolution_type": "pixel", "caption_strategy": "instanceprompt", "instance_prompt": "🟫"},
        HUB | {"repeats": 4, "conditioning": CANNY},
        HUB | {"conditioning": [{"type": "superresolution", "conditioning_type": "reference_strict", "captions": "x"}]},
        image(dataset_type="conditioning", conditioning_type="mask", source_dataset_id="x"),
        image(dataset_type="eval"),
        image(caption_shuffle={"enable": True, "count": 2, "split_on": "comma"}),
        image(crop_aspect="closest", crop_aspect_buckets=[1.0, 0.5, {"aspect": 2.0, "weight": 0.5}]),
        image(metadata_backend="parquet", parquet={"path": "a.parquet", "caption_column": "c"}),
        {"id": "w", "type": "webshart", "source": "x", "hf_token": "secret", "shard_cache_gb": 2},
        {"id": "m", "dataset_type": "text_embeds", "type": "memory", "memory_filesystem_size": "8G"},
        {"id": "c", "dataset_type": "conditioning_image_embeds", "cache_dir": "x"},
        {"id": "t", "dataset_type": "text_embeds", "caption_filter_list": "filter.txt", "write_batch_size": 128},
    ],
)  # fmt: skip
def test_every_kind_of_entry_in_use_is_understood(raw: dict[str, Any]) -> None:
    entries(raw)
