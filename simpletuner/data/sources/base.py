"""What every data set can say about itself, and what every place for images can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, Protocol, runtime_checkable

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from simpletuner.data.captions import CAPTION_STRATEGIES
from simpletuner.data.geometry import (
    BUCKET_MODES,
    CROP_ASPECTS,
    CROP_STYLES,
    INTERPOLATIONS,
    RESOLUTION_TYPES,
    AspectBuckets,
)
from simpletuner.data.items import Item
from simpletuner.data.options import NeverDeletes, Prompts
from simpletuner.data.sections import (
    CONDITIONING_TYPES,
    CaptionPipeline,
    CaptionShuffle,
    ConditioningGenerator,
    EntryName,
    ParquetColumns,
)
from simpletuner.progress import Reporter
from simpletuner.schema import NoEffect, NotYet, Section, TextList, words


@runtime_checkable
class Telling(Protocol):
    """A source that has something to say after its images were listed."""

    def tell(self, reporter: Reporter) -> None:
        """Say what was noticed when the images were listed last."""


class Source(Protocol):
    """A place with images. Listing it opens no file, and nothing is ever written there."""

    lanes: int
    """How many files are best read at once: 1 for a disk, more where each answer takes its time."""

    def items(self) -> Iterator[Item]:
        """Every image and every caption file, in any order."""

    def read(self, key: str) -> bytes:
        """The whole content of a file; a DataError names it when it cannot be read."""

    def open(self, key: str) -> BinaryIO:
        """The file itself, to look at its first bytes."""

    def name(self, key: str) -> str:
        """Where a file is, as the user would look for it; where all of them are, for an empty key."""


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


def wanted(caption_extension: str = CAPTION_SUFFIX) -> frozenset[str]:
    """The endings of all files that a source lists, in small letters."""
    return IMAGE_SUFFIXES | OTHER_PICTURES | {caption_extension.lower()}


DATASET_TYPES = words(
    "dataset type",
    {
        "image": "Images to train on.",
        "conditioning": "Images that belong to those of another data set: masks, references, edges.",
        "eval": "Images that are not trained on, to measure the loss with.",
    },
    later={
        "caption": "only image data sets are trained on",
        "video": "FLUX is trained on images",
        "audio": "FLUX is trained on images",
        "grounding": "FLUX is trained on images",
        "distillation_cache": "FLUX is trained on images",
    },
)

_CONTENT = NoEffect("caches are addressed by content, so nothing outdated is ever used")
_RESCANNED = NoEffect("data sets are rescanned at every start, and only new and changed files are opened")
_BY_ITSELF = NoEffect("the framework chooses this by itself")


def _an_ending(value: str) -> str:
    if not value.startswith(".") or len(value) < 2 or set(value[1:]) & set("./\\"):
        raise ValueError(f"must begin with a dot and hold no other, such as .txt or .caption, got '{value}'")
    return value


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


METADATA_BACKENDS = words(
    "metadata backend",
    {
        "discovery": "Sizes are read from the image files.",
        "json": "Another name of discovery.",
        "filesystem": "An old name of discovery.",
        "parquet": "Captions and sizes come from the table in parquet.",
        "huggingface": "Captions and sizes come from columns of a data set on the Hub.",
        "webshart": "Captions and sizes come from the index of the shards.",
    },
)

REGULARISATION_MODES = words(
    "regularisation mode",
    {
        "parent": "The target is what the base model itself answers, so that it is not changed.",
        "prior": "The images themselves are learned, with the weight prior_loss_weight, as in sd-scripts.",
    },
)


class DataBackend(Section):
    """One data set with images; what it leaves open is taken from the defaults of the run."""

    id: EntryName
    """The name of the data set, of your choice; each one is used once."""
    type: str = "local"
    """Where the images are."""
    dataset_type: Annotated[str, DATASET_TYPES] = "image"
    """What the data set is for."""
    disabled: bool = False
    """Leaves the data set out, as if its entry were not there."""
    conditioning_type: Annotated[str | None, CONDITIONING_TYPES] = None
    """How the images steer the training of another data set; makes it a conditioning data set."""

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
    max_upscale_threshold: float | None = Field(default=None, ge=0)
    """Leaves out images that would have to be enlarged by more than this share: 0.2 allows edges 20% longer."""
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
    crop_aspect_buckets: AspectBuckets = ()
    """The shapes for crop_aspect closest and random: width divided by height, with a weight if you like."""
    bucket_mode: Annotated[str, BUCKET_MODES] = "aspect"
    """How the sizes of images in training are chosen."""
    min_bucket_reso: int = Field(default=256, ge=64)
    """The shortest edge of a bucket in pixels, for bucket_mode kohya."""
    max_bucket_reso: int = Field(default=1024, ge=64)
    """The longest edge of a bucket in pixels, for bucket_mode kohya."""
    bucket_reso_steps: int = Field(default=64, ge=16)
    """Edges of buckets are multiples of this many pixels, for bucket_mode kohya."""
    bucket_no_upscale: bool = False
    """Never enlarges images: small ones make small buckets, for bucket_mode kohya."""
    resize_interpolation: Annotated[str, INTERPOLATIONS] = "lanczos"
    """How images are resized."""

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
    caption_extension: Annotated[str, AfterValidator(_an_ending)] = CAPTION_SUFFIX
    """The ending of caption files, such as .caption."""
    caption_fallback: str | None = None
    """The caption of images that have none; without it, a missing caption ends the run."""
    caption_shuffle: CaptionShuffle | None = None
    """Makes more captions by changing the order of the parts of each."""
    caption_pipeline: CaptionPipeline | None = None
    """What sd-scripts does to captions: prefix, tags that stay, shuffling, wildcards, dropout, warm-up."""

    repeats: int = Field(default=0, ge=0, le=1_000_000)
    """How many more times each image is used in an epoch: 0 uses it once, 9 ten times."""
    probability: float = 1.0
    """How often the data set is drawn compared with others; 0 leaves it out."""
    train_batch_size: int | None = Field(default=None, ge=1, le=65_536)
    """How many images of this data set make a batch."""
    max_num_samples: int | None = Field(default=None, ge=1)
    """Uses only this many images, always the same ones."""
    is_regularisation_data: bool = False
    """Keeps what the model knows: on these images it learns to draw what it drew before."""
    regularisation_mode: Annotated[str, REGULARISATION_MODES] = "parent"
    """What is learned from regularisation data."""
    prior_loss_weight: float = Field(default=1.0, ge=0)
    """The weight of the loss on this data set, for regularisation_mode prior."""
    match_count: bool = False
    """Uses these images as often in an epoch as all other images together, for regularisation_mode prior."""
    timestep_sampling_offset: float = Field(default=0.0, ge=-10, le=10)
    """Moves training on this data set to noisier (above 0) or cleaner (below 0) images; 1 is much."""
    slider_strength: Annotated[float | None, NotYet("leave it out: sliders are not trained")] = None
    """The direction of this data set in a slider."""
    start_epoch: int = Field(default=1, ge=0)
    """The first epoch that uses the data set, counted from 1."""
    start_step: int = Field(default=0, ge=0)
    """The first step that uses the data set."""
    end_epoch: int | None = None
    """The last epoch that uses the data set; 0 or less for no end."""
    end_step: int | None = None
    """The last step that uses the data set; 0 or less for no end."""
    disable_after_epoch_step: int | None = Field(default=None, ge=1)
    """How many steps of each epoch may use the data set: all its batches come in these."""

    text_embeds: str | None = None
    """The id of the text_embeds entry that keeps the encoded captions; the default one unless given."""
    image_embeds: str | None = None
    """The id of the image_embeds entry that keeps the encoded images."""
    cache_dir_vae: Path | None = None
    """Where the encoded images of this data set are kept."""
    cache_dir: Path | None = None
    """Where downloaded images are kept."""
    flip_aug: bool = False
    """Swaps left and right in half of the uses of each image, drawn by chance; captions should not name sides."""
    alpha_mask: bool = False
    """Learns only what is opaque in images with transparency; the loss is weighted by the alpha channel."""
    conditioning_data: TextList = ()
    """The ids of the data sets that steer the training of this one."""
    conditioning: Annotated[tuple[ConditioningGenerator, ...], BeforeValidator(_as_tuple)] = ()
    """Makes pairs out of the images of this data set."""
    source_dataset_id: str | None = None
    """The data set whose images these belong to."""
    metadata_backend: Annotated[str, METADATA_BACKENDS] = "discovery"
    """Where the sizes of images are known from."""
    parquet: ParquetColumns | None = None
    """Where a table says what is known about images, for metadata_backend parquet."""
    disable_validation: Annotated[bool, NoEffect("validation draws from prompts, not from data sets")] = False
    """Keeps images of this data set out of validation."""

    vae_cache_ondemand: bool | None = None
    """Encodes images when they are first needed instead of before training; the encoder stays in memory."""
    vae_cache_disable: bool | None = None
    """Never keeps encoded images on a disk; the encoder stays in memory."""
    vae_cache_clear_each_epoch: bool = False
    """Draws random crops anew for each epoch; the encoder stays in memory."""
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
            raise ValueError("disable_vae_cache was removed; use vae_cache_disable")
        named = {_SPELLINGS.get(key, key): value for key, value in given.items()}
        return {**named, "dataset_type": "conditioning"} if named.get("conditioning_type") else named

    @property
    def place(self) -> str | None:
        """Where the images are, where two entries can be told to list the same files."""
        return None

    place_option: ClassVar[str] = "type"
    """The option that says where the images are, for advice in messages."""
    keeps_downloads: ClassVar[bool] = False
    """Whether something of the images is kept in `cache_dir`, which then has a folder of its own by default."""
    own_strategy: ClassVar[str] = ""
    """Where captions come from unless the entry says so; empty for what holds in the whole run."""

    sizes_said_by: ClassVar[tuple[str, str]] = ("its head", "save it anew")
    """What says how large an image is, as far as the source knows, and what to do when that is wrong."""

    def open(self) -> Source:
        """The images themselves. Sections that are not served yet never get here."""
        raise NotImplementedError(self.not_yet)


_SPELLINGS = {
    "disable": "disabled",
    "is_regularization_data": "is_regularisation_data",
    "text_embed_cache": "text_embeds",
}
