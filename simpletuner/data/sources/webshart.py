"""Images in tar shards, on the Hub, on a web server or in a folder, which are read by range and never unpacked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, SecretStr

from simpletuner.data.sources.base import DataBackend
from simpletuner.data.sources.shards.places import Place, place_of
from simpletuner.data.sources.shards.source import Shards
from simpletuner.schema import NoEffect, TextList
from simpletuner.storage.local import LocalStore


class Webshart(DataBackend):
    """Images in tar shards (WebDataset), on the Hub, on a web server or in a folder."""

    keeps_downloads: ClassVar[bool] = True
    place_option: ClassVar[str] = "source"
    own_strategy: ClassVar[str] = "webshart"
    sizes_said_by: ClassVar[tuple[str, str]] = ("the index of its shard", "make the index anew")

    source: str
    """Where the shards are: an id on the Hub, a folder, or addresses such as https://host/shard-{000..123}.tar."""
    metadata: str | None = None
    """Where the indexes of the shards are; beside the shards unless given, and made where there are none."""
    hf_token: SecretStr | None = None
    """The access token for the Hub; write {env:NAME} to take it from the environment."""
    subfolder: str | None = None
    """The folder of the shards."""
    caption_column: TextList = ()
    """The keys of .json files in the shards with captions; .txt files and usual keys unless given."""
    shard_cache_gb: Annotated[float, NoEffect("images are read by range, and no shard is kept")] = Field(
        default=25, ge=0
    )
    """How much room downloaded shards may take, in gigabytes."""
    parallel_downloads: int = Field(default=4, ge=1)
    """How many shards are looked through at once."""
    buffer_size: Annotated[int, NoEffect("the framework chooses this by itself")] = Field(default=100, ge=1)
    """How many images are read ahead."""
    max_file_size: int = Field(default=500 * 2**20, ge=1)
    """Larger images are left out, in bytes."""
    optimize_captions: Annotated[bool, NoEffect("captions are always kept in the index")] = False
    """Reads captions from the index."""

    @property
    def place(self) -> str:
        """The shards, and what of them is listed."""
        return f"{self.source} {self.subfolder} {self.metadata} {self.caption_column} {self.max_file_size}"

    def open(self) -> Shards:
        """The shards, which are looked through when they are first needed."""
        return Shards(
            self._place(self.source, self.subfolder),
            id=self.id,
            indexes=self._place(self.metadata) if self.metadata else None,
            store=LocalStore(self.cache_dir) if self.cache_dir else None,
            caption_keys=self.caption_column,
            max_file_size=self.max_file_size,
            at_once=self.parallel_downloads,
        )

    def _place(self, source: str, subfolder: str | None = None) -> Place:
        token = self.hf_token.get_secret_value() if self.hf_token else None
        return place_of(source, subfolder=subfolder, token=token)
