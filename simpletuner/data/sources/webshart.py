"""Tar shards read by range: every option is known, reading is not served yet."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr

from simpletuner.data.sources.base import DataBackend


class Webshart(DataBackend):
    """Images in tar shards, on the Hub or in a folder."""

    not_yet: ClassVar[str] = "unpack the shards to a folder and use type local"

    source: str
    """Where the shards are."""
    metadata: str | None = None
    """Where the index of the shards is."""
    hf_token: SecretStr | None = None
    """The access token for the Hub; write {env:NAME} to take it from the environment."""
    subfolder: str | None = None
    """The folder of the shards."""
    shard_cache_gb: float = Field(default=25, ge=0)
    """How much room downloaded shards may take, in gigabytes."""
    parallel_downloads: int = Field(default=4, ge=1)
    """How many shards are downloaded at once."""
    buffer_size: int = Field(default=100, ge=1)
    """How many images are read ahead."""
    max_file_size: int = Field(default=500 * 2**20, ge=1)
    """Larger files are left out, in bytes."""
    optimize_captions: bool = False
    """Reads captions from the index."""
