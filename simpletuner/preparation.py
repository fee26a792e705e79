"""What comes before training: scan the data, then encode what no cache holds; encoders come and go in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from simpletuner import plans
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.config import RunConfig
from simpletuner.data.dataset import Dataset, open_all
from simpletuner.data.plan import captions_folder, latents_folder
from simpletuner.data.sources import DataBackend
from simpletuner.models.family import Family, Weights
from simpletuner.progress import Reporter
from simpletuner.storage.local import LocalStore
from simpletuner.training import prompts
from simpletuner.training.prompts import Shot
from simpletuner.training.runtime import Runtime


@dataclass(frozen=True)
class Prepared:
    """Everything that training reads: data sets whose latents and prompts are cached."""

    datasets: tuple[Dataset, ...]
    latents: LatentCache
    prompts: PromptCache
    shots: tuple[Shot, ...]
    weights: Weights


def prepare(config: RunConfig, runtime: Runtime, reporter: Reporter) -> Prepared:
    """Scan the data, then encode what is not cached: the encoders come and go in here."""
    family, weights = plans.family(config), config.model.weights()
    datasets = open_all(
        config.data,
        config.data_defaults,
        train_batch_size=config.duration.train_batch_size,
        cache=plans.cache_folder(config),
        # Without a seed of its own, a run keeps the crops of the run before, and with them the cache.
        seed=config.run.seed or 0,
        reporter=reporter,
    )
    shots = () if config.validation.validation_disable else prompts.shots(config.validation, runtime.seed)
    texts = _encode_prompts(config, family, weights, datasets, shots, runtime, reporter)
    runtime.release()
    latents, usable = _encode_images(config, datasets, runtime, reporter)
    runtime.release()
    return Prepared(usable, latents, texts, shots, weights)


def _encode_prompts(
    config: RunConfig,
    family: Family,
    weights: Weights,
    datasets: Sequence[Dataset],
    shots: Sequence[Shot],
    runtime: Runtime,
    reporter: Reporter,
) -> PromptCache:
    folder = partial(
        captions_folder, entries=config.data, defaults=config.data_defaults, cache=plans.cache_folder(config)
    )
    caches = _caches(datasets, folder, plans.text_recipe(config, runtime))
    wanted: list[tuple[TensorCache, list[str]]] = [
        (caches[datasets[0].id], ["", *prompts.texts(config.validation, shots)])
    ]
    for dataset in datasets:
        captions = sorted({caption for record in dataset.records for caption in record.captions})
        wanted.append((caches[dataset.id], captions))
    cache = PromptCache()
    encoder = partial(family.text_encoder, weights, *plans.text_settings(config), runtime.compute)
    cache.fill(wanted, encoder, config.data_defaults.text_encoder_batch_size, reporter)
    return cache


def _encode_images(
    config: RunConfig,
    datasets: Sequence[Dataset],
    runtime: Runtime,
    reporter: Reporter,
) -> tuple[LatentCache, tuple[Dataset, ...]]:
    folder = partial(
        latents_folder, entries=config.data, defaults=config.data_defaults, cache=plans.cache_folder(config)
    )
    cache = LatentCache(_caches(datasets, folder, plans.latent_recipe(config, runtime)))
    broken = cache.fill(datasets, plans.codec(config, runtime), config.data_defaults.vae_batch_size, reporter)
    return cache, tuple(dataset.without(broken.get(dataset.id, {}), reporter) for dataset in datasets)


def _caches(datasets: Sequence[Dataset], folder: Callable[[DataBackend], Path], recipe: str) -> dict[str, TensorCache]:
    """The cache of each data set by its id; data sets of one folder share one, so that it is listed once."""
    places = {dataset.id: folder(dataset.options) for dataset in datasets}
    opened = {place: TensorCache(LocalStore(place), recipe) for place in set(places.values())}
    return {name: opened[place] for name, place in places.items()}
