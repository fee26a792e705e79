"""What holds for every data set unless its own entry in the data file says otherwise, and where caches go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from simpletuner.data.captions import CAPTION_STRATEGIES
from simpletuner.data.geometry import RESOLUTION_TYPES
from simpletuner.schema import IfChanged, NoEffect, NotYet, Section, TextList, words


def _never(wanted: bool) -> bool:
    """Refuse to delete what belongs to the user."""
    if wanted:
        raise ValueError("your images are never deleted; unwanted ones are left out and listed in the skip list")
    return wanted


def _one_or_more(value: Any) -> Any:
    prompts = value if isinstance(value, (list, tuple)) else [value]
    return [prompt for prompt in prompts if str(prompt).strip()]


Prompts = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
"""One prompt, or a list of them; a comma is part of a prompt."""

NeverDeletes = Annotated[bool, AfterValidator(_never)]
"""A switch that asks for images to be deleted: known, and refused for ever."""

SAMPLINGS = words(
    "sampling",
    {
        "auto-weighting": "Larger data sets are drawn more often, so that all of them are used up together.",
        "uniform": "Only the probability of each data set counts, not its size.",
    },
)

CACHE_MODES = words(
    "cache mode",
    {
        "posterior": "Mean and deviation, from which every use draws anew, as the autoencoder means it.",
        "sample": "One draw, as SimpleTuner keeps it, in half the space.",
    },
)

_ALWAYS_CURRENT = "data sets are rescanned at every start, and only new and changed files are opened"
_BY_ITSELF = "the framework chooses this by itself"
_CONTENT = "caches are addressed by content, so nothing outdated is ever used"
_NO_BUCKET_LOST = "every bucket is used; one that is smaller than a batch is filled up from itself"
_TO_PROGRESS = "what happens is always reported in progress.jsonl"
_NO_CHECK = "sort such images out beforehand"


class DataDefaults(Section):
    """Defaults of all data sets; each entry of the data file may override them."""

    if_changed: ClassVar[IfChanged] = IfChanged.TOLD

    resolution: float = Field(default=1024, gt=0)
    """How large images are in training: pixels, or megapixels when resolution_type is area."""
    resolution_type: Annotated[str, RESOLUTION_TYPES] = "pixel_area"
    """What the number in resolution measures."""
    minimum_image_size: float | None = Field(default=None, ge=0)
    """Images smaller than this are left out, in the unit of resolution_type."""
    maximum_image_size: float | None = Field(default=None, ge=0)
    """Images larger than this are first shrunk to target_downsample_size, so that a crop shows more of them."""
    target_downsample_size: float | None = Field(default=None, ge=0)
    """How large an image over maximum_image_size is before it is cropped, in the unit of resolution_type."""
    max_upscale_threshold: float | None = Field(default=None, ge=0)
    """Leaves out images that would have to be enlarged by more than this share: 0.2 allows edges 20% longer."""
    aspect_bucket_rounding: int = Field(default=2, ge=1, le=9)
    """Decimals kept of an image's aspect ratio: fewer give fewer and fuller buckets, and crop a little more."""
    aspect_bucket_alignment: Annotated[int, NoEffect("FLUX images are always aligned to 64 pixels")] = 64
    """Edges of the images in a bucket are multiples of this many pixels."""

    caption_strategy: Annotated[str, CAPTION_STRATEGIES] = "filename"
    """Where captions come from."""
    instance_prompt: Prompts = ()
    """The prompt for instanceprompt captions, or what is put in front of captions; with several, one is drawn."""
    prepend_instance_prompt: bool = False
    """Puts instance_prompt and a space in front of each caption."""
    only_instance_prompt: bool = False
    """Uses instance_prompt for every image and ignores all other captions."""
    disable_multiline_split: bool = False
    """Takes a caption file as one caption; otherwise each line of it is an alternative."""
    parquet_caption_column: str | None = None
    """The column with captions in a Parquet table."""
    parquet_filename_column: str | None = None
    """The column with file names in a Parquet table."""

    data_backend_sampling: Annotated[str, SAMPLINGS] = "auto-weighting"
    """How the data set of each batch is drawn."""
    conditioning_multidataset_sampling: Annotated[
        str,
        words(
            "sampling",
            {
                "random": "One of the conditioning data sets is drawn for each image.",
                "combined": "All conditioning data sets are used for each image.",
            },
        ),
    ] = "random"
    """How several data sets of reference pictures are used; all masks of an image always count together."""
    disable_bucket_pruning: Annotated[bool, NoEffect(_NO_BUCKET_LOST)] = False
    """Keeps buckets that are smaller than a batch."""
    allow_dataset_oversubscription: Annotated[bool, NoEffect(_NO_BUCKET_LOST)] = False
    """Repeats images of buckets that are smaller than a batch."""

    cache_dir_text: Annotated[Path | None, IfChanged.FINE] = None
    """Where encoded captions are kept between runs; the folder text in cache_dir unless given."""
    cache_dir_vae: Annotated[Path | None, IfChanged.FINE] = None
    """Where encoded images are kept between runs; the folder vae in cache_dir unless given."""
    text_encoder_batch_size: Annotated[int, IfChanged.FINE] = Field(default=1, ge=1)
    """How many captions are encoded at once while the cache is filled."""
    vae_batch_size: Annotated[int, IfChanged.FINE] = Field(default=4, ge=1)
    """How many images are encoded at once while the cache is filled."""
    vae_cache_mode: Annotated[str, CACHE_MODES] = "posterior"
    """What is kept of an encoded image."""
    vae_cache_ondemand: Annotated[bool, IfChanged.FINE] = False
    """Encodes images when they are first needed instead of before training; the encoder stays in memory."""
    vae_cache_disable: Annotated[bool, IfChanged.FINE] = False
    """Never keeps encoded images on a disk; the encoder stays in memory."""
    text_cache_ondemand: Annotated[bool, IfChanged.FINE] = False
    """Encodes captions when they are first needed instead of before training; the encoders stay in memory."""
    text_cache_disable: Annotated[bool, IfChanged.FINE] = False
    """Never keeps encoded captions on a disk; the encoders stay in memory."""
    text_embed_full_cache: Annotated[bool, NoEffect("FLUX keeps what it needs and no more")] = False
    """Keeps parts of encoded captions that training does not use."""
    compress_disk_cache: Annotated[bool, NoEffect("caches are safetensors files, which hardly compress")] = True
    """Compresses cache files."""
    vae_cache_scan_behaviour: Annotated[str, NoEffect(_CONTENT)] = "recreate"
    """What to do about cached images of the wrong size."""
    override_dataset_config: Annotated[bool, NoEffect("changed settings of a data set always take effect")] = False
    """Lets changed settings of a data set take effect over an existing cache."""
    preserve_data_backend_cache: Annotated[bool, NoEffect(_ALWAYS_CURRENT)] = False
    """Keeps the lists of files from the run before."""
    skip_file_discovery: Annotated[TextList, NoEffect(_ALWAYS_CURRENT)] = ()
    """Leaves out parts of the preparation."""
    ignore_missing_files: Annotated[bool, NoEffect(_ALWAYS_CURRENT)] = False
    """Keeps files that have vanished in the list of images."""

    aspect_bucket_disable_rebuild: Annotated[bool, NoEffect("buckets do not change between epochs")] = False
    """Does not sort images into buckets anew for each epoch."""
    metadata_update_interval: Annotated[float, NoEffect("progress of a scan is saved all the time")] = 3600
    """Seconds between saves of what is known about the images."""
    write_batch_size: Annotated[int, NoEffect(_BY_ITSELF)] = 128
    """How many cache files are written at once."""
    read_batch_size: Annotated[int, NoEffect(_BY_ITSELF)] = 25
    """How many images are read at once."""
    image_processing_batch_size: Annotated[int, NoEffect(_BY_ITSELF)] = 32
    """How many images are prepared at once."""
    max_workers: Annotated[int, NoEffect(_BY_ITSELF)] = 32
    """How many threads read and write caches."""
    aspect_bucket_worker_count: Annotated[int, NoEffect(_BY_ITSELF)] = 12
    """How many threads scan images."""
    enable_multiprocessing: Annotated[bool, NoEffect(_BY_ITSELF)] = False
    """Scans images in several processes."""
    torch_num_threads: Annotated[int, NoEffect(_BY_ITSELF)] = 8
    """How many threads PyTorch uses on the processor."""
    dataloader_prefetch: Annotated[bool, NoEffect(_BY_ITSELF)] = False
    """Loads batches ahead of time."""
    dataloader_prefetch_qlen: Annotated[int, NoEffect(_BY_ITSELF)] = 10
    """How many batches are loaded ahead of time."""
    aws_max_pool_connections: Annotated[int, NoEffect("only the aws data backend opens connections")] = 128
    """How many connections to a bucket are open at once."""

    delete_unwanted_images: NeverDeletes = False
    """Known from SimpleTuner and refused: images are never deleted."""
    delete_problematic_images: NeverDeletes = False
    """Known from SimpleTuner and refused: images are never deleted."""
    delete_nsfw_images: NeverDeletes = False
    """Known from SimpleTuner and refused: images are never deleted."""
    enable_nsfw_check: Annotated[bool, NotYet(_NO_CHECK)] = False
    """Looks for images that are not safe for work."""

    print_filenames: Annotated[bool, NoEffect(_TO_PROGRESS)] = False
    """Prints the names of the images of each batch."""
    print_sampler_statistics: Annotated[bool, NoEffect(_TO_PROGRESS)] = False
    """Prints how far each data set is used up."""
    debug_aspect_buckets: Annotated[bool, NoEffect(_TO_PROGRESS)] = False
    """Prints how images are sorted into buckets."""
    debug_dataset_loader: Annotated[bool, NoEffect(_TO_PROGRESS)] = False
    """Prints how data sets are loaded."""
    max_grounding_entities: Annotated[int, NotYet("leave it out: FLUX takes no boxes")] = 0
    """How many boxes with descriptions an image may have."""
