"""What the entries of a data file mean for each part of the data side: rules and places, from options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from simpletuner.data import captions, geometry
from simpletuner.data.captions.filters import load_filters
from simpletuner.data.options import DataDefaults
from simpletuner.data.sections import ParquetColumns
from simpletuner.data.sources import Aws, DataBackend, DataEntry, ImageEmbeds, TextEmbeds
from simpletuner.data.sources.embeds import open_place
from simpletuner.storage.local import LocalStore
from simpletuner.storage.store import Store

T = TypeVar("T")


def geometry_rules(entry: DataBackend, defaults: DataDefaults) -> geometry.Rules:
    """How a data set wants its images, with the defaults of the run where it says nothing."""
    return geometry.Rules(
        resolution=_own(entry.resolution, defaults.resolution),
        resolution_type=_own(entry.resolution_type, defaults.resolution_type),
        crop=entry.crop,
        crop_style=entry.crop_style,
        crop_aspect=entry.crop_aspect,
        crop_aspect_buckets=entry.crop_aspect_buckets,
        minimum_image_size=_own(entry.minimum_image_size, defaults.minimum_image_size),
        maximum_image_size=_own(entry.maximum_image_size, defaults.maximum_image_size),
        target_downsample_size=_own(entry.target_downsample_size, defaults.target_downsample_size),
        max_upscale_threshold=_own(entry.max_upscale_threshold, defaults.max_upscale_threshold),
        minimum_aspect_ratio=entry.minimum_aspect_ratio,
        maximum_aspect_ratio=entry.maximum_aspect_ratio,
        aspect_bucket_rounding=_own(entry.aspect_bucket_rounding, defaults.aspect_bucket_rounding),
        bucket_mode=entry.bucket_mode,
        min_bucket_reso=entry.min_bucket_reso,
        max_bucket_reso=entry.max_bucket_reso,
        bucket_reso_steps=entry.bucket_reso_steps,
        bucket_no_upscale=entry.bucket_no_upscale,
        resize_interpolation=entry.resize_interpolation,
    )


def caption_rules(
    entry: DataBackend,
    defaults: DataDefaults,
    entries: Sequence[DataEntry] = (),
    *,
    seed: int = 0,
    dropout: float = 0.0,
) -> captions.Rules:
    """How a data set makes captions, with the defaults of the run where it says nothing.

    Args:
        entry: The data set.
        defaults: What holds where it says nothing.
        entries: The whole data file, where the cache with the list of filters is.
        seed: Where shuffles and other variants come from.
        dropout: The share of uses without a caption, for data sets that do not have their own.
    """
    pipeline, cache = entry.caption_pipeline, _text_cache(entry, entries)
    return captions.Rules(
        strategy=_own(entry.caption_strategy, entry.own_strategy or defaults.caption_strategy),
        instance_prompts=_own(entry.instance_prompt, defaults.instance_prompt),
        prepend_instance_prompt=_own(entry.prepend_instance_prompt, defaults.prepend_instance_prompt),
        only_instance_prompt=_own(entry.only_instance_prompt, defaults.only_instance_prompt),
        disable_multiline_split=_own(entry.disable_multiline_split, defaults.disable_multiline_split),
        extension=entry.caption_extension,
        fallback=entry.caption_fallback or "",
        shuffle=entry.caption_shuffle,
        pipeline=pipeline,
        filters=load_filters(cache.caption_filter_list) if cache else (),
        dropout=dropout if pipeline is None else _own(pipeline.caption_dropout_rate, dropout),
        seed=seed,
    )


def table_columns(entry: DataBackend, defaults: DataDefaults) -> ParquetColumns | None:
    """The table that says what is known about the images of a data set, if there is one."""
    if entry.parquet is None or entry.metadata_backend != "parquet":
        return None
    general = {
        "caption_column": defaults.parquet_caption_column,
        "filename_column": defaults.parquet_filename_column,
    }
    missing = {name: value for name, value in general.items() if value and name not in entry.parquet.model_fields_set}
    return entry.parquet.model_copy(update=missing)


def conditions(entries: Sequence[DataEntry]) -> Mapping[str, tuple[DataBackend, ...]]:
    """The conditioning data sets of each data set, by its id and in the order in which they are named."""
    backends = [entry for entry in entries if isinstance(entry, DataBackend)]
    known = {entry.id: entry for entry in backends if entry.dataset_type == "conditioning"}
    found: dict[str, list[DataBackend]] = {}
    for entry in backends:
        for id in entry.conditioning_data:
            if id in known:
                found.setdefault(entry.id, []).append(known[id])
    for entry in known.values():
        named = found.setdefault(entry.source_dataset_id, []) if entry.source_dataset_id else []
        if entry.source_dataset_id and entry not in named:
            named.append(entry)
    return {id: tuple(partners) for id, partners in found.items()}


def text_store(entry: DataBackend, entries: Sequence[DataEntry], defaults: DataDefaults, *, cache: Path) -> Store:
    """Where the encoded captions of a data set are kept; `cache` is the folder for all caches."""
    own = _text_cache(entry, entries)
    if own is not None and (own.cache_dir or own.type != "local"):
        return open_place(own)
    return LocalStore(defaults.cache_dir_text or cache / "text")


def latent_store(entry: DataBackend, entries: Sequence[DataEntry], defaults: DataDefaults, *, cache: Path) -> Store:
    """Where the encoded images of a data set are kept; `cache` is the folder for all caches.

    What a bucket's own entry says of its cache is a folder in that bucket, as in SimpleTuner.
    """
    caches = [one for one in entries if isinstance(one, ImageEmbeds)]
    chosen = (one for one in caches if (one.id == entry.image_embeds if entry.image_embeds else one.default))
    shared = next(chosen, None)
    if entry.cache_dir_vae:
        return (
            entry.store(entry.cache_dir_vae.as_posix()) if isinstance(entry, Aws) else LocalStore(entry.cache_dir_vae)
        )
    if shared is not None and (shared.cache_dir or shared.type != "local"):
        return open_place(shared)
    return LocalStore(defaults.cache_dir_vae or cache / "vae")


@dataclass(frozen=True)
class Keeping:
    """When something is encoded, and whether it is kept on a disk."""

    on_demand: bool = False
    kept: bool = True


def keeps_latents(entry: DataBackend, defaults: DataDefaults) -> Keeping:
    """When the images of a data set are encoded."""
    is_disabled = _own(entry.vae_cache_disable, defaults.vae_cache_disable)
    redraws = entry.vae_cache_clear_each_epoch and geometry_rules(entry, defaults).draws_crop
    is_late = _own(entry.vae_cache_ondemand, defaults.vae_cache_ondemand) or redraws
    return Keeping(is_late or is_disabled, not is_disabled)


def keeps_captions(entry: DataBackend, entries: Sequence[DataEntry], defaults: DataDefaults) -> Keeping:
    """When the captions of a data set are encoded."""
    cache = _text_cache(entry, entries)
    is_disabled = _own(None if cache is None else cache.text_cache_disable, defaults.text_cache_disable)
    is_late = _own(None if cache is None else cache.text_cache_ondemand, defaults.text_cache_ondemand)
    return Keeping(is_late or is_disabled, not is_disabled)


def _text_cache(entry: DataBackend, entries: Sequence[DataEntry]) -> TextEmbeds | None:
    caches = [one for one in entries if isinstance(one, TextEmbeds)]
    chosen = (one for one in caches if (one.id == entry.text_embeds if entry.text_embeds else one.default))
    return next(chosen, None)


def _own(own: T | None, default: T) -> T:
    return default if own is None else own
