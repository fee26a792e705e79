"""A data set on the Hugging Face Hub: every option is known, reading is not served yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from simpletuner.data.sources.base import DataBackend
from simpletuner.schema import Section, TextList


class CompositeImage(Section):
    """Cuts one picture out of an image that shows several side by side."""

    enabled: bool = False
    """Whether images are cut."""
    image_count: int = Field(default=1, ge=1)
    """How many pictures an image shows."""
    select_index: int = Field(default=0, ge=0)
    """Which of them is used, counted from 0."""


class RowFilter(Section):
    """Chooses rows of the data set."""

    collection: TextList = ()
    """Only rows of these collections."""
    quality_thresholds: Mapping[str, float] = Field(default_factory=dict)
    """Only rows whose scores are at least these."""
    quality_column: str | None = None
    """The column with scores."""
    min_width: float | None = Field(default=None, ge=0)
    """Only images at least this wide, in pixels."""
    min_height: float | None = Field(default=None, ge=0)
    """Only images at least this high, in pixels."""


class HubColumns(Section):
    """Where a data set on the Hub says what."""

    cache_dir: Path | None = None
    """Where downloads are kept."""
    streaming: bool = False
    """Reads rows as they are needed instead of downloading them."""
    num_proc: int = Field(default=16, ge=1)
    """How many processes read."""
    auto_load: bool = False
    """Loads the data set without being asked."""
    split: str | None = None
    """Which part of the data set is used."""
    revision: str | None = None
    """Which version of the data set is used."""
    image_column: str | None = None
    """The column with images."""
    caption_column: TextList = ()
    """The columns with captions."""
    fallback_caption_column: str | None = None
    """The column with captions for rows that have none."""
    description_column: str | None = None
    """The column with longer descriptions."""
    width_column: str | None = None
    """The column with widths."""
    height_column: str | None = None
    """The column with heights."""
    quality_column: str | None = None
    """The column with scores."""
    composite_image_config: CompositeImage | None = None
    """Cuts one picture out of an image that shows several side by side."""
    filter_func: RowFilter | None = None
    """Chooses rows of the data set."""


class HuggingFace(DataBackend):
    """A data set on the Hugging Face Hub."""

    not_yet: ClassVar[str] = "save its images to a folder, with a .txt file for each caption, and use type local"

    dataset_name: str
    """The name of the data set on the Hub."""
    split: str = "train"
    """Which part of the data set is used."""
    revision: str | None = None
    """Which version of the data set is used."""
    image_column: str = "image"
    """The column with images."""
    video_column: str | None = None
    """The column with videos."""
    streaming: bool = False
    """Reads rows as they are needed instead of downloading them."""
    num_proc: int = Field(default=16, ge=1)
    """How many processes read."""
    auto_load: bool = False
    """Loads the data set without being asked."""
    caption_column: Any = None
    """The columns with captions."""
    huggingface: HubColumns | None = None
    """Where the data set says what."""
