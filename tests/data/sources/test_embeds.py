"""Where caches are, as the data file says it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from servers.s3 import shared

from simpletuner.complaints import problems
from simpletuner.data.sources.embeds import Embeds, ImageEmbeds, TextEmbeds, open_place, unused_options
from simpletuner.errors import DataError
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore
from simpletuner.storage.s3 import S3Store


def cache(**options: Any) -> Embeds:
    return TextEmbeds.model_validate({"id": "texts", "dataset_type": "text_embeds", **options})


def complaints(**options: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        cache(**options)
    return [str(one) for one in problems(caught.value, [], lambda path: " > ".join(map(str, path)), page="D.md")]


def test_a_local_cache_is_in_its_folder_or_in_the_one_of_the_run(tmp_path: Path) -> None:
    named = open_place(cache(cache_dir=str(tmp_path / "own")), otherwise=tmp_path / "other")
    unnamed = open_place(cache(), otherwise=tmp_path / "other")
    assert isinstance(named, LocalStore) and named.root == tmp_path / "own"
    assert isinstance(unnamed, LocalStore) and unnamed.root == tmp_path / "other"
    with pytest.raises(DataError, match="'texts' says nowhere where its cache is. Give it a cache_dir."):
        open_place(cache())


def test_a_cache_in_a_bucket_is_below_its_prefix_and_its_folder() -> None:
    entry = cache(type="aws", aws_bucket_name="b", aws_data_prefix="/pre/fix", cache_dir="cache/text")
    assert open_place(entry).name == "s3://b/pre/fix/cache/text"
    assert open_place(cache(type="aws", aws_bucket_name="b")).name == "s3://b/"


def test_a_cache_in_a_real_bucket_keeps_what_it_is_given() -> None:
    server = shared()
    entry = ImageEmbeds.model_validate({"id": "i", "type": "aws", **server.entry(server.new_bucket())})
    store = open_place(entry)
    assert isinstance(store, S3Store)
    store.write("a/b", b"latents")
    assert open_place(entry).read("a/b") == b"latents"


def test_a_cache_in_memory_has_one_name_however_often_it_is_opened() -> None:
    store = open_place(cache(type="memory"))
    assert isinstance(store, MemoryStore)
    assert store.name == open_place(cache(type="memory")).name == "memory of 'texts'"


def test_a_bucket_without_a_name_is_one_clear_problem() -> None:
    assert complaints(type="aws", aws_endpoint_url="https://s3.example.org") == [
        "aws_bucket_name: is required by type aws: the bucket that the cache is in"
    ]


def test_other_places_for_caches_are_refused_by_name() -> None:
    (problem,) = complaints(type="csv")
    assert problem == "type: no place for a cache is called 'csv'; the choices are local, aws, memory"


def test_options_for_another_place_are_noticed() -> None:
    entry = cache(aws_bucket_name="b", cache_dir="c")
    why = "the cache is not in a bucket; set type to aws if it shall be, it is local"
    assert list(unused_options(entry)) == [("aws_bucket_name", why)]
    assert list(unused_options(cache(type="aws", aws_bucket_name="b", cache_dir="c"))) == []
    assert [name for name, _ in unused_options(cache(type="memory", cache_dir="c"))] == ["cache_dir"]
