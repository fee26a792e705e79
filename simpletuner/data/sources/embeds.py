"""Entries of the data file that hold no images: where encoded captions and images are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, model_validator

from simpletuner.data.sources.memory import MemoryFolder
from simpletuner.schema import NoEffect, NotYet, TextList, words

PLACES = words(
    "place for a cache",
    {
        "local": "A folder on this machine.",
        "aws": "An S3-compatible bucket.",
        "memory": "The memory of the process; everything is encoded anew in each run.",
    },
)

_RESCANNED = NoEffect("caches are addressed by content, so nothing outdated is ever used")


class Embeds(MemoryFolder):
    """A cache that data sets can share."""

    id: str = Field(min_length=1)
    """The name of the cache, of your choice; each one is used once."""
    type: Annotated[str, PLACES] = "local"
    """Where the cache is."""
    dataset_type: str = "text_embeds"
    """What the cache is for."""
    disabled: bool = False
    """Leaves the cache out, as if its entry were not there."""
    default: bool = False
    """Whether data sets use this cache unless they name another one."""
    cache_dir: Path | None = None
    """The folder of the cache."""
    write_batch_size: Annotated[int | None, NoEffect("the framework chooses this by itself")] = None
    """How many cache files are written at once."""
    preserve_data_backend_cache: Annotated[bool, _RESCANNED] = False
    """Keeps the lists of files from the run before."""
    skip_file_discovery: Annotated[TextList, _RESCANNED] = ()
    """Leaves out parts of the preparation."""
    aws_bucket_name: str | None = None
    """The name of the bucket."""
    aws_endpoint_url: str | None = None
    """The address of the service, for any that is not Amazon's."""
    aws_access_key_id: SecretStr | None = None
    """Who you are; write {env:NAME} to take it from the environment."""
    aws_secret_access_key: SecretStr | None = None
    """Your secret; write {env:NAME} to take it from the environment."""
    aws_region_name: str | None = None
    """Where the bucket is."""
    aws_data_prefix: str = ""
    """The folder in the bucket."""
    aws_max_pool_connections: int = Field(default=128, ge=1)
    """How many connections are open at once."""

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, given: Any) -> Any:
        """Another spelling that files in use have."""
        if not isinstance(given, Mapping):
            return given
        return {"disabled" if key == "disable" else key: value for key, value in given.items()}


class TextEmbeds(Embeds):
    """Where encoded captions are kept."""

    text_encoder_batch_size: Annotated[int | None, NoEffect("use the text_encoder_batch_size of the run")] = None
    """How many captions are encoded at once while the cache is filled."""
    caption_filter_list: TextList = ()
    """What is taken out of captions: words, regular expressions or s/find/replace, or the file that lists them."""
    text_cache_ondemand: bool | None = None
    """Encodes captions when they are first needed instead of before training."""
    text_cache_disable: bool | None = None
    """Never keeps encoded captions."""


class ImageEmbeds(Embeds):
    """Where encoded images are kept."""

    dataset_type: str = "image_embeds"
    """What the cache is for."""
