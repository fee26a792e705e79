"""A data set on the Hugging Face Hub, or one that its library `datasets` has saved in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from simpletuner.data.sources.base import DataBackend
from simpletuner.data.sources.rows.columns import Columns
from simpletuner.data.sources.rows.filters import Rules
from simpletuner.data.sources.rows.load import Address, is_saved
from simpletuner.data.sources.rows.source import Part, Rows, Wanted
from simpletuner.schema import NoEffect, NotYet, Section, TextList, conflict

_NO_STREAM = "leave it out: training reads images in random order, and a stream has only one; cache_dir says where to"
_ALWAYS = NoEffect("the data set is always loaded")


class CompositeImage(Section):
    """Cuts one picture out of an image that shows several side by side."""

    enabled: bool = False
    """Whether images are cut."""
    image_count: int = Field(default=1, ge=1)
    """How many pictures an image shows, side by side and equally wide."""
    select_index: int = Field(default=0, ge=0)
    """Which of them is used, counted from 0."""

    @model_validator(mode="after")
    def _exists(self) -> CompositeImage:
        if self.select_index >= self.image_count:
            last = self.image_count - 1
            raise conflict("select_index", f"must be at most {last}: image_count is {self.image_count}, from 0 on")
        return self

    @property
    def part(self) -> Part | None:
        """What is cut out; nothing when images are used whole."""
        return Part(self.select_index, self.image_count) if self.enabled and self.image_count > 1 else None


class RowFilter(Section):
    """Chooses rows of the data set; the others are named in the skip list."""

    collection: TextList = ()
    """Only rows whose column `collection` is one of these."""
    quality_thresholds: Mapping[str, float] = Field(default_factory=dict)
    """Only rows whose scores are at least these."""
    quality_column: str | None = None
    """The column with scores: an object with all of them, or a number; else each score is a column of its own."""
    min_width: float | None = Field(default=None, ge=0)
    """Only images at least this wide, in pixels."""
    min_height: float | None = Field(default=None, ge=0)
    """Only images at least this high, in pixels."""

    def rules(self, quality_column: str | None) -> Rules:
        """The same, with a column for scores if none is named here."""
        return Rules(
            collections=self.collection,
            thresholds=self.quality_thresholds,
            quality_column=self.quality_column or quality_column,
            minimum_width=self.min_width or 0.0,
            minimum_height=self.min_height or 0.0,
        )


class HubColumns(Section):
    """Where a data set on the Hub says what; stands before options of the same name outside it."""

    cache_dir: Path | None = None
    """Where downloads are kept."""
    streaming: Annotated[bool, NotYet(_NO_STREAM)] = False
    """Reads rows as they are needed instead of downloading them."""
    num_proc: int = Field(default=16, ge=1)
    """How many processes prepare a download, but no more than there are processors."""
    auto_load: Annotated[bool, _ALWAYS] = False
    """Loads the data set without being asked."""
    split: str | None = None
    """Which part of the data set is used."""
    subset: str | None = None
    """Which of several collections in one data set is used."""
    revision: str | None = None
    """Which version of the data set is used."""
    image_column: str | None = None
    """The column with images."""
    caption_column: TextList = ()
    """The columns with captions; a.b is the part b of the objects in column a, and lists hold alternatives."""
    fallback_caption_column: str | None = None
    """The column with captions for rows that have none."""
    description_column: str | None = None
    """The column with descriptions, for rows that have no caption otherwise."""
    width_column: str | None = None
    """The column with widths, in pixels."""
    height_column: str | None = None
    """The column with heights, in pixels."""
    quality_column: str | None = None
    """The column with the scores that quality_thresholds are about."""
    composite_image_config: CompositeImage | None = None
    """Cuts one picture out of an image that shows several side by side."""
    filter_func: RowFilter | None = None
    """Chooses rows of the data set."""


class HuggingFace(DataBackend):
    """A data set on the Hugging Face Hub, or in a folder: Parquet files, images, or what save_to_disk wrote."""

    keeps_downloads: ClassVar[bool] = True
    place_option: ClassVar[str] = "dataset_name"
    own_strategy: ClassVar[str] = "huggingface"
    sizes_said_by: ClassVar[tuple[str, str]] = ("its row", "leave width_column and height_column out")

    dataset_name: str
    """The id of the data set on the Hub, such as owner/name, or a folder."""
    split: str = "train"
    """Which part of the data set is used."""
    subset: str | None = None
    """Which of several collections in one data set is used."""
    revision: str | None = None
    """Which version of the data set is used."""
    image_column: str | None = None
    """The column with images; found by itself where there is only one, or one that is called image."""
    video_column: Annotated[str | None, NotYet("leave it out: FLUX is trained on images")] = None
    """The column with videos."""
    streaming: Annotated[bool, NotYet(_NO_STREAM)] = False
    """Reads rows as they are needed instead of downloading them."""
    num_proc: int = Field(default=16, ge=1)
    """How many processes prepare a download, but no more than there are processors."""
    auto_load: Annotated[bool, _ALWAYS] = False
    """Loads the data set without being asked."""
    caption_column: TextList = ()
    """The columns with captions; caption, text or prompt where none is named."""
    huggingface: HubColumns | None = None
    """Where the data set says what."""

    @property
    def place(self) -> str:
        """The rows, and what of them is listed."""
        return repr(self._wanted())

    def open(self) -> Rows:
        """The rows, which are loaded when they are first needed."""
        return Rows(self._wanted())

    def unused_options(self) -> Iterator[tuple[str, str]]:
        """Options for the Hub that do nothing for a data set on this machine, each with the reason."""
        path = Path(self.dataset_name).expanduser()
        if not path.exists():
            return
        no_subsets = path.is_file() or is_saved(path)
        for option in ("revision", "subset") if no_subsets else ("revision",):
            block = self.huggingface or HubColumns()
            given = {option: self.__dict__[option], f"huggingface › {option}": block.__dict__[option]}
            for name, value in given.items():
                if value is not None:
                    yield name, f"{self.dataset_name} is on this machine, and has only one {_KINDS[option]}"

    def _wanted(self) -> Wanted:
        block = self.huggingface or HubColumns()
        composite = block.composite_image_config or CompositeImage()
        chosen = block.filter_func or RowFilter()
        return Wanted(self._address(block), self._columns(block), chosen.rules(block.quality_column), composite.part)

    def _address(self, block: HubColumns) -> Address:
        processes = min(self.num_proc, block.num_proc) if _sets_processes(self, block) else 1
        return Address(
            self.dataset_name,
            split=block.split or self.split,
            subset=block.subset or self.subset,
            revision=block.revision or self.revision,
            cache_dir=block.cache_dir or self.cache_dir,
            processes=min(processes, os.cpu_count() or 1),
            id=self.id,
        )

    def _columns(self, block: HubColumns) -> Columns:
        return Columns(
            image=block.image_column or self.image_column,
            captions=block.caption_column or self.caption_column,
            fallback=block.fallback_caption_column,
            description=block.description_column,
            width=block.width_column,
            height=block.height_column,
        )


def _sets_processes(section: HuggingFace, block: HubColumns) -> bool:
    """Whether anybody asked for processes; starting them costs more than a small download."""
    return "num_proc" in section.model_fields_set or "num_proc" in block.model_fields_set


_KINDS = {"revision": "version", "subset": "collection"}
