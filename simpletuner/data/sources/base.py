"""What every data set can say about itself, and what every place for images can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Protocol

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from simpletuner.data.captions import CAPTION_STRATEGIES
from simpletuner.data.geometry import CROP_ASPECTS, CROP_STYLES, RESOLUTION_TYPES
from simpletuner.data.items import Item
from simpletuner.data.options import NeverDeletes, Prompts
from simpletuner.schema import NoEffect, NotYet, Section, TextList, words


class Source(Protocol):
    """A place with images. Listing it opens no file, and nothing is ever written there."""

    def items(self) -> Iterator[Item]:
        """Every image and every caption file, in any order."""

    def read(self, key: str) -> bytes:
        """The whole content of a file; a DataError names it when it cannot be read."""

    def open(self, key: str) -> BinaryIO:
        """The file itself, to look at its first bytes."""

    def name(self, key: str) -> str:
        """Where a file is, as the user would look for it."""


IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"}
    | {".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi"}
)
"""Files with these endings are taken for images; what they really are is told by their content."""

OTHER_PICTURES = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".tga", ".svg", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".exr", ".hdr"}
    | {".pcx", ".xcf", ".eps"}
)
"""Pictures of kinds that are not read: they are named in the skip list instead of being passed over in silence."""

CAPTION_SUFFIX = ".txt"

DATASET_TYPES = words(
    "dataset type",
    {"image": "Images to train on."},
    later={
        "conditioning": "only plain image data sets are trained on so far",
        "eval": "use validation prompts to judge progress",
        "caption": "only image data sets are trained on",
        "video": "FLUX is trained on images",
        "audio": "FLUX is trained on images",
        "grounding": "FLUX is trained on images",
        "distillation_cache": "FLUX is trained on images",
    },
)

CONDITIONING_TYPES = words(
    "conditioning type",
    {},
    later=dict.fromkeys(
        ["controlnet", "mask", "segmentation", "reference_strict", "reference_loose"],
        "set disabled on this data set: only plain image data sets are trained on so far",
    ),
)

_NO_PAIRS = NotYet("leave it out: only plain image data sets are trained on so far")
_WHOLE_RUN = NotYet("leave it out: every data set takes part in the whole run")
_CONTENT = NoEffect("caches are addressed by content, so nothing outdated is ever used")
_RESCANNED = NoEffect("data sets are rescanned at every start, and only new and changed files are opened")
_BY_ITSELF = NoEffect("the framework chooses this by itself")


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


class ConditioningGenerator(Section):
    """Makes pairs for a data set out of its own images, such as edges or blurred copies."""

    model_config = ConfigDict(extra="allow")

    type: str
    """What is made: canny, superresolution, jpeg_artifacts, random_masks, depth or segmentation."""
    conditioning_type: Annotated[str | None, CONDITIONING_TYPES] = None
    """How the result is used."""
    captions: bool | str | tuple[str, ...] | None = None
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
    count: int = Field(default=1, ge=1)
    """How many shuffled captions are made of each."""
    seed: int | None = None
    """Where the order comes from; the seed of the run unless given."""
    split_on: str = "comma"
    """What separates the parts: comma, space or period."""
    position_start: int = Field(default=0, ge=0)
    """How many parts at the beginning stay in their place."""
    include_original: bool = True
    """Whether the caption itself is used too."""


class ParquetColumns(Section):
    """Where a Parquet table says what is known about images."""

    path: str
    """The table."""
    filename_column: str = "id"
    """The column with file names."""
    caption_column: str | None = None
    """The column with captions."""
    fallback_caption_column: str | None = None
    """The column with captions for rows that have none."""
    width_column: str | None = None
    """The column with widths."""
    height_column: str | None = None
    """The column with heights."""
    identifier_includes_extension: bool = False
    """Whether file names in the table end with their extension."""
    bbox_column: str | None = None
    """The column with boxes."""


METADATA_BACKENDS = words(
    "metadata backend",
    {
        "discovery": "Sizes are read from the image files.",
        "json": "Another name of discovery.",
    },
    later={
        name: "use discovery, which reads sizes from the image files"
        for name in ("parquet", "huggingface", "webshart", "filesystem")
    },
)


class DataBackend(Section):
    """One data set with images; what it leaves open is taken from the defaults of the run."""

    id: str = Field(min_length=1)
    """The name of the data set, of your choice; each one is used once."""
    type: str = "local"
    """Where the images are."""
    dataset_type: Annotated[str, DATASET_TYPES] = "image"
    """What the data set is for."""
    disabled: bool = False
    """Leaves the data set out, as if its entry were not there."""
    conditioning_type: Annotated[str | None, CONDITIONING_TYPES] = None
    """How the images steer the training of another data set."""

    resolution: float | None = Field(default=None, gt=0)
    """How large images are in training: pixels, or megapixels when resolution_type is area."""
    resolution_type: Annotated[str | None, RESOLUTION_TYPES] = None
    """What the number in resolution measures."""
    minimum_image_size: float | None = Field(default=None, ge=0)
    """Images smaller than this are left out, in the unit of resolution_type."""
    maximum_image_size: float | None = Field(default=None, ge=0)
    """Images larger than this are first shrunk to target_downsample_size, so that a crop shows more of them."""
    target_downsample_size: float | None = Field(default=None, ge=0)
    """How large an image over maximum_image_size is before it is cropped, in the unit of resolution_type."""
    max_upscale_threshold: Annotated[float | None, NotYet("use minimum_image_size to leave small images out")] = None
    """Leaves out images that would have to be enlarged by more than this share."""
    minimum_aspect_ratio: float | None = Field(default=None, gt=0)
    """Images narrower than this are left out; width divided by height, so 0.5 is twice as tall as wide."""
    maximum_aspect_ratio: float | None = Field(default=None, gt=0)
    """Images wider than this are left out; width divided by height, so 2.0 is twice as wide as tall."""
    aspect_bucket_rounding: int | None = Field(default=None, ge=1, le=9)
    """Decimals kept of an image's aspect ratio: fewer give fewer and fuller buckets, and crop a little more."""
    crop: bool = False
    """Crops images to the shape in crop_aspect; otherwise only what does not fit the bucket is trimmed."""
    crop_style: Annotated[str, CROP_STYLES] = "random"
    """Which part of an image is kept."""
    crop_aspect: Annotated[str, CROP_ASPECTS] = "square"
    """The shape that images are cropped to when crop is on."""
    crop_aspect_buckets: Annotated[tuple[Any, ...], NotYet("use crop_aspect square or preserve")] = ()
    """The shapes for crop_aspect closest and random."""

    caption_strategy: Annotated[str | None, CAPTION_STRATEGIES] = None
    """Where captions come from."""
    instance_prompt: Prompts | None = None
    """The prompt for instanceprompt captions, or what is put in front of captions; with several, one is drawn."""
    prepend_instance_prompt: bool | None = None
    """Puts instance_prompt and a space in front of each caption."""
    only_instance_prompt: bool | None = None
    """Uses instance_prompt for every image and ignores all other captions."""
    disable_multiline_split: bool | None = None
    """Takes a caption file as one caption; otherwise each line of it is an alternative."""
    caption_shuffle: Annotated[CaptionShuffle | None, NotYet("write shuffled captions as lines of the .txt file")] = (
        None
    )
    """Makes more captions by changing the order of the parts of each."""

    repeats: int = Field(default=0, ge=0)
    """How many more times each image is used in an epoch: 0 uses it once, 9 ten times."""
    probability: float = 1.0
    """How often the data set is drawn compared with others; 0 leaves it out."""
    train_batch_size: int | None = Field(default=None, ge=1)
    """How many images of this data set make a batch."""
    max_num_samples: int | None = Field(default=None, ge=1)
    """Uses only this many images, always the same ones."""
    is_regularisation_data: bool = False
    """Keeps what the model knows: on these images it learns to draw what it drew before."""
    timestep_sampling_offset: Annotated[float, NotYet("use flow_schedule_shift, which holds for all data sets")] = 0.0
    """Shifts training on this data set to noisier or cleaner images."""
    slider_strength: Annotated[float | None, NotYet("leave it out: sliders are not trained")] = None
    """The direction of this data set in a slider."""
    start_epoch: Annotated[int, _WHOLE_RUN] = 1
    """The first epoch that uses the data set."""
    start_step: Annotated[int, _WHOLE_RUN] = 0
    """The first step that uses the data set."""
    end_epoch: Annotated[int | None, _WHOLE_RUN] = None
    """The last epoch that uses the data set."""
    end_step: Annotated[int | None, _WHOLE_RUN] = None
    """The last step that uses the data set."""
    disable_after_epoch_step: Annotated[int | None, _WHOLE_RUN] = None
    """The step of an epoch from which on the data set is not used."""

    text_embeds: str | None = None
    """The id of the text_embeds entry that keeps the encoded captions; the default one unless given."""
    image_embeds: str | None = None
    """The id of the image_embeds entry that keeps the encoded images."""
    cache_dir_vae: Path | None = None
    """Where the encoded images of this data set are kept."""
    cache_dir: Path | None = None
    """Where downloaded images are kept."""
    conditioning_data: Annotated[TextList, _NO_PAIRS] = ()
    """The ids of the data sets that steer the training of this one."""
    conditioning: Annotated[
        tuple[ConditioningGenerator, ...], BeforeValidator(_as_tuple), NotYet("leave it out: pairs are not made yet")
    ] = ()
    """Makes pairs out of the images of this data set."""
    source_dataset_id: Annotated[str | None, _NO_PAIRS] = None
    """The data set that this one belongs to."""
    metadata_backend: Annotated[str, METADATA_BACKENDS] = "discovery"
    """Where the sizes of images are known from."""
    parquet: Annotated[ParquetColumns | None, NotYet("use discovery and textfile captions")] = None
    """Where a Parquet table says what is known about images."""
    disable_validation: Annotated[bool, NoEffect("validation draws from prompts, not from data sets")] = False
    """Keeps images of this data set out of validation."""

    vae_cache_ondemand: Annotated[bool | None, NotYet("leave it out: the cache is filled before training")] = None
    """Encodes images when they are first needed instead of before training."""
    vae_cache_disable: Annotated[bool | None, NotYet("leave it out: the cache is filled before training")] = None
    """Never keeps encoded images."""
    vae_cache_clear_each_epoch: Annotated[bool, NotYet("leave it out: crops do not change between epochs")] = False
    """Encodes all images anew for each epoch."""
    skip_file_discovery: Annotated[TextList, _RESCANNED] = ()
    """Leaves out parts of the preparation."""
    preserve_data_backend_cache: Annotated[bool, _RESCANNED] = False
    """Keeps the lists of files from the run before."""
    scan_for_errors: Annotated[bool, _CONTENT] = False
    """Looks at every file of the cache before training."""
    cache_file_suffix: Annotated[str | None, _CONTENT] = None
    """The end of the names of the files with what is known about images."""
    hash_filenames: Annotated[bool, _CONTENT] = True
    """Names cache files by a checksum."""
    metadata_update_interval: Annotated[float | None, NoEffect("progress of a scan is saved all the time")] = None
    """Seconds between saves of what is known about the images."""
    delete_unwanted_images: NeverDeletes = False
    """Known from SimpleTuner and refused: images are never deleted."""
    delete_problematic_images: NeverDeletes = False
    """Known from SimpleTuner and refused: images are never deleted."""
    read_batch_size: Annotated[int | None, _BY_ITSELF] = None
    """How many images are read at once."""
    write_batch_size: Annotated[int | None, _BY_ITSELF] = None
    """How many cache files are written at once."""
    vae_batch_size: Annotated[int | None, NoEffect("use the vae_batch_size of the run")] = None
    """How many images are encoded at once."""
    image_processing_batch_size: Annotated[int | None, _BY_ITSELF] = None
    """How many images are prepared at once."""
    max_workers: Annotated[int | None, _BY_ITSELF] = None
    """How many threads read and write caches."""
    ignore_epochs: Annotated[bool, NoEffect("an epoch ends when every data set is used up")] = False
    """Known from old versions of SimpleTuner."""
    bbox: Annotated[Any, NotYet("leave it out: FLUX takes no boxes")] = None
    """Settings for boxes in images."""
    video: Annotated[Any, NotYet("leave it out: FLUX is trained on images")] = None
    """Settings for videos."""
    audio: Annotated[Any, NotYet("leave it out: FLUX is trained on images")] = None
    """Settings for sound."""

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, given: Any) -> Any:
        """Other spellings that config files in use have."""
        if not isinstance(given, Mapping):
            return given
        if "disable_vae_cache" in given:
            raise ValueError("disable_vae_cache was removed; leave it out, the cache is filled before training")
        return {_SPELLINGS.get(key, key): value for key, value in given.items()}

    def open(self) -> Source:
        """The images themselves. Sections that are not served yet never get here."""
        raise NotImplementedError(self.not_yet)


_SPELLINGS = {
    "disable": "disabled",
    "is_regularization_data": "is_regularisation_data",
    "text_embed_cache": "text_embeds",
}
