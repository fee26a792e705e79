"""Groups of options inside the entry of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints

from simpletuner.schema import NotYet, Section, words


def _a_name(value: str) -> str:
    """Names stand in messages, in tables and in names of files."""
    if len(value) > _LONGEST_NAME:
        raise ValueError(f"must have at most {_LONGEST_NAME} characters, got {len(value)}")
    if not value.isprintable():
        raise ValueError(f"must have no line breaks or other invisible characters, got {value!r}")
    return value


_LONGEST_NAME = 100

EntryName = Annotated[str, Field(min_length=1), AfterValidator(_a_name)]
"""The id of an entry."""

CONDITIONING_TYPES = words(
    "conditioning type",
    {
        "mask": "Bright parts of a mask are learned, dark parts are not.",
        "segmentation": "Whatever is not black in it is learned.",
        "reference_strict": "An image to start from, cropped exactly as the image it belongs to.",
        "reference_loose": "An image to start from, with a shape of its own.",
        "controlnet": "An image that a ControlNet follows, cropped exactly as the image it belongs to.",
    },
)


def _said(given: Any) -> Any:
    """Anything that is no caption would be taken for the text it looks like."""
    if not all(isinstance(one, (str, bool)) for one in (given if isinstance(given, (list, tuple)) else [given])):
        raise ValueError(f"must be false, a text or a list of texts, got {given!r}")
    return given


class ConditioningGenerator(Section):
    """Makes pairs for a data set out of its own images, such as edges or blurred copies."""

    model_config = ConfigDict(extra="allow")

    type: str
    """What is made: canny, superresolution, jpeg_artifacts or random_masks."""
    conditioning_type: Annotated[str | None, CONDITIONING_TYPES] = None
    """How the result is used."""
    captions: Annotated[bool | str | tuple[str, ...] | None, BeforeValidator(_said)] = None
    """Captions of the result: none (false), these, or the same as the image's."""
    source_dataset_id: str | None = None
    """The data set whose images are taken."""
    params: Mapping[str, Any] = Field(default_factory=dict)
    """Settings of what is made."""

    def __repr__(self) -> str:
        return repr(self.type)


class CaptionShuffle(Section):
    """Makes more captions by changing the order of the parts of each."""

    enable: bool = False
    """Whether captions are shuffled."""
    count: int = Field(default=1, ge=1, le=1000)
    """How many shuffled captions are made of each."""
    seed: int | None = None
    """Where the order comes from; the seed of the run unless given."""
    split_on: Annotated[
        str,
        words(
            "separator",
            {
                "comma": "Parts end at commas.",
                "space": "Every word is a part.",
                "period": "Parts end at full stops.",
            },
        ),
    ] = "comma"
    """What separates the parts."""
    position_start: int = Field(default=0, ge=0)
    """How many parts at the beginning stay in their place."""
    include_original: bool = True
    """Whether the caption itself is used too."""


Separator = Annotated[str, StringConstraints(strip_whitespace=False)]
"""What separates tags: a blank is one too."""


class CaptionPipeline(Section):
    """What sd-scripts does to captions, in a form that works with cached text embeddings.

    Steps that never change are done before captions are encoded. Of steps that draw at random, `variants` results are
    made for each caption beforehand; every use of an image draws one of them.
    """

    caption_prefix: str = ""
    """Put in front of each caption, with a space."""
    caption_suffix: str = ""
    """Put behind each caption, with a space."""
    caption_dropout_rate: float | None = Field(default=None, ge=0, le=1)
    """The share of uses without a caption; caption_dropout_probability of the run unless given."""
    caption_dropout_every_n_epochs: int = Field(default=0, ge=0)
    """Every so many epochs, no captions are used at all; 0 for never."""
    enable_wildcard: bool = False
    """Draws one of the lines of a caption file, and one word of each {red|green|blue}; else the first line is used."""
    shuffle_caption: bool = False
    """Changes the order of the tags."""
    keep_tokens: int = Field(default=0, ge=0)
    """How many tags at the beginning stay in their place and are never left out."""
    keep_tokens_separator: Separator = ""
    """Separates tags that stay in their place from those that do not, and these from a fixed end, such as |||."""
    caption_separator: Separator = Field(default=",", min_length=1)
    """What separates tags."""
    secondary_separator: Separator = ""
    """Separates tags that stay together; it becomes caption_separator in the end."""
    caption_tag_dropout_rate: float = Field(default=0.0, ge=0, le=1)
    """The share of tags that are left out of each use."""
    token_warmup_min: int = Field(default=1, ge=1)
    """How many tags are used at the first step."""
    token_warmup_step: float = Field(default=0.0, ge=0)
    """The step from which on all tags are used, in at most 8 stages; below 1 it is a share of the run."""
    variants: int = Field(default=8, ge=1, le=1000)
    """How many results of the steps that draw at random are made of each caption."""


class ParquetColumns(Section):
    """Where a table, in Parquet, JSON lines or CSV, says what is known about images."""

    path: str
    """The table."""
    filename_column: str = "id"
    """The column with file names; file_name, filename, image_path, path, file, image and name are tried too."""
    caption_column: str | None = None
    """The column with captions; a list in it holds alternatives."""
    fallback_caption_column: str | None = None
    """The column with captions for rows that have none."""
    width_column: str | None = None
    """The column with widths."""
    height_column: str | None = None
    """The column with heights."""
    identifier_includes_extension: bool = False
    """Takes only file names with their ending; otherwise names match with and without it."""
    bbox_column: Annotated[str | None, NotYet("leave it out: FLUX takes no boxes")] = None
    """The column with boxes."""
