"""What a data file may say and hardly anybody means: options that do nothing as things stand, images used twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from os.path import abspath
from pathlib import Path

from simpletuner.data import captions, geometry
from simpletuner.data.dataset import PIXEL_KINDS
from simpletuner.data.entries import where
from simpletuner.data.options import DataDefaults
from simpletuner.data.plan import caption_rules, conditions, geometry_rules, keeps_latents
from simpletuner.data.sections import CaptionPipeline, CaptionShuffle
from simpletuner.data.sources import DataBackend, DataEntry, Embeds, Local, TextEmbeds
from simpletuner.data.sources.embeds import unused_options
from simpletuner.data.sources.huggingface import HuggingFace
from simpletuner.schema import Section, without_effect

Idle = Iterator[tuple[str, str]]
"""Options that do nothing, each with the reason."""


def remarks(entries: Sequence[DataEntry], defaults: DataDefaults) -> list[str]:
    """Options that were given and do nothing, each with the reason, and images that are used twice.

    Args:
        entries: The data file.
        defaults: What holds where an entry says nothing.
    """
    told = [f"{option} has no effect: {why}" for option, why in _twice_off(defaults)]
    for entry in entries:
        first = {option: why for option, why in reversed([*_idle(entry, entries, defaults)])}
        told += [f"{where(entry, option)} has no effect: {first[option]}" for option in reversed(first)]
    return [*told, *_shared(entries)]


def _shared(entries: Sequence[DataEntry]) -> Iterator[str]:
    """Images that are used twice in ways that hardly anybody means."""
    used = [entry for entry in entries if isinstance(entry, DataBackend) and entry.probability > 0]
    for one, other in permutations(used, 2):
        if one.place is not None and one.place == other.place:
            yield from _twice(one, other)
        if isinstance(one, Local) and isinstance(other, Local) and _lies_in(one.instance_data_dir, other):
            yield (
                f"{where(one, 'instance_data_dir')} lies in the folder of data set '{other.id}', which has these "
                f"images too; set recursive to false there, or give each data set a folder of its own"
            )


def _twice(one: DataBackend, other: DataBackend) -> Iterator[str]:
    """What is odd about two data sets with the same images."""
    if (one.dataset_type, other.dataset_type) == ("eval", "image"):
        yield (
            f"{where(one)} has the images that '{other.id}' trains on, so its loss does not tell how well others are "
            f"learned"
        )
    if one.is_regularisation_data and other.dataset_type == "image" and not other.is_regularisation_data:
        what = f"keeps the model as it is on the images that '{other.id}' trains on: one works against the other"
        yield f"{where(one)} {what}"


def _lies_in(folder: Path, other: Local) -> bool:
    inner, outer = Path(abspath(folder)), Path(abspath(other.instance_data_dir))
    return other.recursive and inner != outer and inner.is_relative_to(outer)


def _idle(entry: DataEntry, entries: Sequence[DataEntry], defaults: DataDefaults) -> Idle:
    yield from without_effect(entry)
    yield from entry.unused_options() if isinstance(entry, HuggingFace) else ()
    if isinstance(entry, Embeds):
        yield from unused_options(entry)
        yield from _of_cache(entry)
    elif entry.dataset_type == "conditioning":
        yield from _of_mask(entry, entries, defaults) if entry.conditioning_type in PIXEL_KINDS else ()
    else:
        rules = geometry_rules(entry, defaults)
        yield from _shapes(entry, rules)
        yield from _latents(entry, rules, defaults)
        yield from _captions(entry, caption_rules(entry, defaults))
        yield from _uses(entry)
        yield from _measured(entry) if entry.dataset_type == "eval" else ()


def _twice_off(section: DataDefaults | TextEmbeds) -> Idle:
    """Caches on demand that are switched off altogether."""
    for kind, things in (("vae", "images"), ("text", "captions")):
        given = section.__dict__
        if given.get(f"{kind}_cache_ondemand") and given.get(f"{kind}_cache_disable"):
            yield f"{kind}_cache_ondemand", f"with {kind}_cache_disable, {things} are encoded when they are needed too"


def _of_cache(entry: Embeds) -> Idle:
    if not isinstance(entry, TextEmbeds):
        return
    yield from _twice_off(entry)
    if entry.text_cache_disable:
        yield from ((option, "text_cache_disable keeps nothing") for option in _given(entry, "cache_dir"))


def _of_mask(entry: DataBackend, entries: Sequence[DataEntry], defaults: DataDefaults) -> Idle:
    """A mask follows its image in everything; what says the same as the image's own entry is passed over."""
    for why, options in _FOLLOWS.items():
        yield from ((option, why) for option in _given(entry, *options))
    own = vars(geometry_rules(entry, defaults))
    links = {id for id, partners in conditions(entries).items() if entry in partners}
    leaders = [one for one in entries if isinstance(one, DataBackend) and one.id in links]
    rules = [vars(geometry_rules(leader, defaults)) for leader in leaders]
    for option in _given(entry, *own):
        if any(of_image[option] != own[option] for of_image in rules):
            yield option, "a mask is cropped as its image is"


def _shapes(entry: DataBackend, rules: geometry.Rules) -> Idle:
    if not rules.maximum_image_size:
        why = "it is for images over maximum_image_size, which is not set"
        yield from ((option, why) for option in _given(entry, "target_downsample_size"))
    yield from ((option, why) for options, why in _idle_shapes(rules) for option in _given(entry, *options))
    if rules.bucket_mode == "kohya" and rules.bucket_no_upscale:
        why = "bucket_no_upscale makes buckets as large as the images"
        yield from ((option, why) for option in _given(entry, "min_bucket_reso", "max_bucket_reso"))


def _idle_shapes(rules: geometry.Rules) -> Iterator[tuple[Sequence[str], str]]:
    """Options for shapes that are found in another way, with that way."""
    if rules.bucket_mode == "kohya":
        yield ("aspect_bucket_rounding", "crop_aspect", "crop_aspect_buckets"), "bucket_mode kohya finds shapes"
    elif not rules.crop:
        yield ("crop_aspect", "crop_aspect_buckets"), "crop is off"
    else:
        if rules.crop_aspect != "preserve":
            yield ("aspect_bucket_rounding",), f"crop_aspect {rules.crop_aspect} rounds no shapes"
        if rules.crop_aspect in {"square", "preserve"}:
            yield ("crop_aspect_buckets",), f"crop_aspect is {rules.crop_aspect}"


def _latents(entry: DataBackend, rules: geometry.Rules, defaults: DataDefaults) -> Idle:
    if not keeps_latents(entry, defaults).kept:
        if entry.vae_cache_ondemand:
            yield "vae_cache_ondemand", "with vae_cache_disable, images are encoded when they are needed too"
        why = "vae_cache_disable keeps no encoded images"
        yield from ((option, why) for option in _given(entry, "cache_dir_vae", "image_embeds"))
    elif entry.cache_dir_vae:
        yield from ((option, "cache_dir_vae goes before it") for option in _given(entry, "image_embeds"))
    if entry.vae_cache_clear_each_epoch and not rules.draws_crop:
        yield "vae_cache_clear_each_epoch", f"crop_style {rules.crop_style} draws no crops"


def _captions(entry: DataBackend, rules: captions.Rules) -> Idle:
    if rules.only_instance_prompt:
        why = "only_instance_prompt takes the prompt for every image"
        named = () if _is_prompt(rules) else ("caption_strategy",)
        yield from ((option, why) for option in _given(entry, *named, *_OF_FILES, *_BESIDE_PROMPTS))
    elif _is_prompt(rules):
        why = "caption_strategy instanceprompt takes the prompt for every image"
        yield from ((option, why) for option in _given(entry, *_OF_FILES, *_BESIDE_PROMPTS))
    elif not rules.reads_text_files:
        why = f"caption_strategy is {rules.strategy}, which reads no caption files"
        yield from ((option, why) for option in _given(entry, "caption_extension"))
    if rules.shuffle is not None and not rules.shuffle.enable:
        options = _given(rules.shuffle, *CaptionShuffle.model_fields)
        yield from ((f"caption_shuffle › {option}", "enable is false") for option in options)
    if rules.pipeline is not None:
        idle = dict(_pipeline(rules.pipeline))
        yield from ((f"caption_pipeline › {option}", idle[option]) for option in _given(rules.pipeline, *idle))


def _is_prompt(rules: captions.Rules) -> bool:
    return captions.CAPTION_STRATEGIES.get(rules.strategy) is captions.from_instance_prompt


def _pipeline(options: CaptionPipeline) -> Idle:
    draws = options.shuffle_caption or options.caption_tag_dropout_rate > 0
    if not draws and not options.enable_wildcard:
        yield "variants", "no step draws anything at random"
    if not draws and not options.token_warmup_step:
        yield "keep_tokens", "no step moves tags or leaves any out"
    if not options.token_warmup_step:
        yield "token_warmup_min", "token_warmup_step is not set"


def _uses(entry: DataBackend) -> Idle:
    if entry.match_count:
        yield from ((option, "match_count says how often images are used") for option in _given(entry, "repeats"))
    if entry.source_dataset_id:
        yield "source_dataset_id", "it is for data sets with a conditioning_type"
    if not entry.keeps_downloads:
        yield from ((option, f"type {entry.type} keeps nothing there") for option in _given(entry, "cache_dir"))
    for spec in entry.conditioning:
        if spec.captions is not None and spec.conditioning_type in PIXEL_KINDS:
            yield f"conditioning › {spec.type} › captions", "a mask has no captions"


def _measured(entry: DataBackend) -> Idle:
    """What is for training alone, on data that is only measured with."""
    why = "an eval data set is not trained on"
    idle = (
        *_WHEN,
        "repeats",
        "flip_aug",
        "vae_cache_clear_each_epoch",
        *(("probability",) if entry.probability > 0 else ()),
    )
    yield from ((option, why) for option in _given(entry, *idle))
    whole = ("alpha_mask", "conditioning_data", "conditioning")
    yield from ((option, "the loss is measured on whole images") for option in _given(entry, *whole))


def _given(section: Section, *names: str) -> Iterator[str]:
    """Those of the options that were set to something other than their default."""
    for name in names:
        field = type(section).model_fields[name] if name in section.model_fields_set else None
        if field is not None and section.__dict__[name] != field.get_default(call_default_factory=True):
            yield name


_WHEN = ("start_epoch", "start_step", "end_epoch", "end_step", "disable_after_epoch_step")

_OF_FILES = ("caption_extension", "disable_multiline_split")

_BESIDE_PROMPTS = ("caption_fallback", "prepend_instance_prompt")

_FOLLOWS = {
    "a mask is used whenever its image is": (
        *("repeats", "probability", "train_batch_size", "max_num_samples", "flip_aug", "disable_after_epoch_step"),
        *("start_epoch", "start_step", "end_epoch", "end_step"),
    ),
    "captions are those of the image": (
        *("caption_strategy", "caption_extension", "caption_fallback", "caption_shuffle", "caption_pipeline"),
        *("instance_prompt", "prepend_instance_prompt", "only_instance_prompt", "disable_multiline_split"),
        "text_embeds",
    ),
    "masks are not encoded": (
        *("cache_dir_vae", "image_embeds", "vae_cache_ondemand", "vae_cache_disable", "vae_cache_clear_each_epoch"),
    ),
    "it is for images to train on": ("alpha_mask",),
}
