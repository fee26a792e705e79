"""What entries mean: rules of geometry and captions, partners, and the places of caches."""

from pathlib import Path

from simpletuner.data import captions
from simpletuner.data.geometry import Rules
from simpletuner.data.options import DataDefaults
from simpletuner.data.plan import (
    caption_rules,
    conditions,
    geometry_rules,
    latent_store,
    table_columns,
    text_store,
)
from simpletuner.data.sources import DataBackend
from simpletuner.storage.memory import MemoryStore

from .files import entries, first, image, latents, texts


def test_what_an_entry_leaves_open_comes_from_the_defaults() -> None:
    defaults = DataDefaults(resolution=0.5, resolution_type="area", caption_strategy="textfile", minimum_image_size=0.1)
    entry = first(image(minimum_image_size=0.2, crop=True))
    assert geometry_rules(entry, defaults) == Rules(0.5, "area", crop=True, minimum_image_size=0.2)
    assert caption_rules(entry, defaults).reads_text_files
    assert not caption_rules(first(image(caption_strategy="filename")), defaults).reads_text_files


def test_an_entry_may_switch_off_what_the_defaults_switch_on() -> None:
    defaults = DataDefaults(only_instance_prompt=True, instance_prompt=["general"], max_upscale_threshold=0.5)
    entry = first(image(only_instance_prompt=False, instance_prompt="own", max_upscale_threshold=0))
    rules = caption_rules(entry, defaults)
    assert (rules.only_instance_prompt, rules.instance_prompts) == (False, ("own",))
    assert geometry_rules(entry, defaults).max_upscale_threshold == 0


def test_a_source_with_captions_of_its_own_uses_them_unless_told_otherwise() -> None:
    csv = {"id": "c", "type": "csv", "csv_file": "a", "csv_cache_dir": "b", "csv_caption_column": "c"}
    defaults = DataDefaults(caption_strategy="textfile")
    assert caption_rules(first(csv), defaults).strategy == (first(csv).own_strategy or "textfile")
    assert caption_rules(first(csv | {"caption_strategy": "filename"}), defaults).strategy == "filename"


def test_dropout_of_a_pipeline_goes_before_that_of_the_run() -> None:
    plain, own, open_ = (
        first(image(caption_pipeline=pipeline)) for pipeline in (None, {"caption_dropout_rate": 0.5}, {})
    )
    assert [caption_rules(entry, DataDefaults(), dropout=0.1).dropout for entry in (plain, own, open_)] == [
        0.1, 0.5, 0.1,
    ]  # fmt: skip


def test_filters_are_those_of_the_text_cache_that_a_data_set_uses() -> None:
    found = entries(
        image("a"), image("b", text_embeds="u"),
        texts("t", default=True, caption_filter_list=["one"]), texts("u", caption_filter_list=["two", "three"]),
    )  # fmt: skip
    images = [entry for entry in found if isinstance(entry, DataBackend)]
    assert [caption_rules(entry, DataDefaults(), found).filters for entry in images] == [("one",), ("two", "three")]


def test_caches_go_where_the_entry_its_cache_or_the_defaults_say() -> None:
    caches = [
        texts("t", default=True, cache_dir="cache/t"),
        texts("u", cache_dir="cache/u"),
        latents("i", cache_dir="cache/i"),
    ]
    raw = [image("a"), image("b", text_embeds="u", cache_dir_vae="cache/b"), image("c", image_embeds="i")]
    found, defaults, cache = entries(*raw, *caches), DataDefaults(), Path("root")
    images = [entry for entry in found if isinstance(entry, DataBackend)]
    assert [text_store(entry, found, defaults, cache=cache).name for entry in images] == [
        "cache/t", "cache/u", "cache/t",
    ]  # fmt: skip
    assert [latent_store(entry, found, defaults, cache=cache).name for entry in images] == [
        "root/vae", "cache/b", "cache/i",
    ]  # fmt: skip


def test_the_defaults_name_caches_for_entries_that_name_none() -> None:
    defaults = DataDefaults(cache_dir_text="texts", cache_dir_vae="latents")
    found = entries(image())
    assert text_store(first(image()), found, defaults, cache=Path("root")).name == "texts"
    assert latent_store(first(image()), found, defaults, cache=Path("root")).name == "latents"


def test_the_default_image_cache_is_used_without_being_named() -> None:
    found = entries(image(), latents("i", default=True, type="memory"))
    assert isinstance(latent_store(first(image()), found, DataDefaults(), cache=Path("root")), MemoryStore)


def test_a_cache_of_images_in_a_bucket_is_a_folder_of_that_bucket() -> None:
    bucket = {"id": "a", "type": "aws", "aws_bucket_name": "b", "cache_dir_vae": "cache/vae"}
    store = latent_store(first(bucket), entries(bucket), DataDefaults(), cache=Path("root"))
    assert store.name.rstrip("/") == "s3://b/cache/vae"


def test_partners_are_found_from_either_side_and_in_the_order_they_are_named() -> None:
    found = entries(
        image("a", conditioning_data=["y", "x"]), image("b"),
        image("x", conditioning_type="mask"), image("y", conditioning_type="reference_loose"),
        image("z", conditioning_type="mask", source_dataset_id="b"),
        image("w", conditioning_type="mask", source_dataset_id="a"),
    )  # fmt: skip
    assert {id: [partner.id for partner in partners] for id, partners in conditions(found).items()} == {
        "a": ["y", "x", "w"], "b": ["z"],
    }  # fmt: skip


def test_a_partner_named_from_both_sides_is_one_partner() -> None:
    found = entries(image("a", conditioning_data="x"), image("x", conditioning_type="mask", source_dataset_id="a"))
    assert [partner.id for partner in conditions(found)["a"]] == ["x"]


def test_the_columns_of_a_table_come_from_the_entry_and_then_from_the_defaults() -> None:
    defaults = DataDefaults(parquet_caption_column="general", parquet_filename_column="file")
    table = {"path": "x", "caption_column": "own"}
    columns = table_columns(first(image(metadata_backend="parquet", parquet=table)), defaults)
    assert columns is not None
    assert (columns.caption_column, columns.filename_column) == ("own", "file")
    assert table_columns(first(image(parquet=table)), defaults) is None


def test_the_strategies_of_captions_are_all_known() -> None:
    assert {"filename", "textfile", "instanceprompt", "csv", "parquet", "huggingface"} <= set(
        captions.CAPTION_STRATEGIES
    )
