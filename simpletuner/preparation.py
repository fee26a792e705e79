"""What comes before training: scan the data, then encode what no cache holds; encoders come and go in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from simpletuner import plans
from simpletuner.caching import tensors
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.config import RunConfig
from simpletuner.data import plan
from simpletuner.data.dataset import Dataset
from simpletuner.data.opening import Opened, open_all
from simpletuner.data.plan import Keeping
from simpletuner.data.sources import DataBackend, DataEntry
from simpletuner.errors import DataError
from simpletuner.models.family import Weights
from simpletuner.progress import Reporter
from simpletuner.storage.store import Store
from simpletuner.training import prompts
from simpletuner.training.prompts import Shot
from simpletuner.training.runtime import Runtime


@dataclass(frozen=True)
class Prepared:
    """Everything that training reads: data sets whose latents and prompts are cached."""

    datasets: tuple[Dataset, ...]
    evaluation: tuple[Dataset, ...]
    """Data sets that the loss is measured on."""
    latents: LatentCache
    prompts: PromptCache
    shots: tuple[Shot, ...]
    weights: Weights

    def close(self) -> None:
        """Give back the encoders that were opened on demand."""
        self.latents.close()
        self.prompts.close()


def prepare(config: RunConfig, runtime: Runtime, reporter: Reporter) -> Prepared:
    """Scan the data, then encode what is not cached: the encoders come and go in here."""
    opened = open_data(config, reporter)
    plans.schedule(config, plans.order(config, opened.training, runtime))  # refuses gaps before hours of encoding
    shots = () if config.validation.validation_disable else prompts.shots(config.validation, runtime.seed)
    texts = _encode_prompts(config, opened, shots, runtime, reporter)
    runtime.release()
    latents, usable = _encode_images(config, opened, runtime, reporter)
    runtime.release()
    return Prepared(usable.training, usable.evaluation, latents, texts, shots, config.model.weights())


def open_data(config: RunConfig, reporter: Reporter, *, allows_silence: bool = False) -> Opened:
    """Scan every data set of a run, and say what was found.

    Args:
        config: The run.
        reporter: Told what was found.
        allows_silence: Lets images without a caption through, and looks at data sets that the run does not use too.
    """
    return open_all(
        config.data if allows_silence else _used(config),
        config.data_defaults,
        train_batch_size=config.duration.train_batch_size,
        cache=plans.cache_folder(config),
        # Without a seed of its own, a run keeps the crops of the run before, and with them the cache.
        seed=config.run.seed or 0,
        reporter=reporter,
        caption_dropout=config.objective.caption_dropout_probability,
        allows_silence=allows_silence,
    )


def _used(config: RunConfig) -> list[DataEntry]:
    """The data file without eval data sets that the loss is never measured on; nothing of them is encoded."""
    return [entry for entry in config.data if entry.dataset_type != "eval" or config.validation.measures(entry.id)]


def text_caches(config: RunConfig, opened: Opened, runtime: Runtime) -> dict[str, TensorCache]:
    """The cache for the captions of each data set, by its id."""
    store = partial(
        plan.text_store, entries=config.data, defaults=config.data_defaults, cache=plans.cache_folder(config)
    )
    keeping = partial(plan.keeps_captions, entries=config.data, defaults=config.data_defaults)
    return _caches(opened.whole, store, keeping, plans.text_recipe(config, runtime))


def latent_caches(config: RunConfig, opened: Opened, runtime: Runtime) -> dict[str, TensorCache]:
    """The cache for the images of each data set, by its id."""
    store = partial(
        plan.latent_store, entries=config.data, defaults=config.data_defaults, cache=plans.cache_folder(config)
    )
    keeping = partial(plan.keeps_latents, defaults=config.data_defaults)
    return _caches(opened.encoded, store, keeping, plans.latent_recipe(config, runtime))


def wanted_prompts(
    config: RunConfig, opened: Opened, shots: Sequence[Shot], caches: dict[str, TensorCache]
) -> Iterator[tuple[TensorCache, list[str]]]:
    """Every prompt of a run with the cache that keeps it; the empty one is always among them."""
    yield caches[opened.training[0].id], ["", *prompts.texts(config.validation, shots)]
    for dataset in opened.whole:
        yield caches[dataset.id], sorted({caption for record in dataset.records for caption in record.captions})


def _encode_prompts(
    config: RunConfig, opened: Opened, shots: Sequence[Shot], runtime: Runtime, reporter: Reporter
) -> PromptCache:
    wanted = list(wanted_prompts(config, opened, shots, text_caches(config, opened, runtime)))
    cache = PromptCache()
    cache.fill(wanted, plans.text_encoder(config, runtime), config.data_defaults.text_encoder_batch_size, reporter)
    return cache


def _encode_images(
    config: RunConfig, opened: Opened, runtime: Runtime, reporter: Reporter
) -> tuple[LatentCache, Opened]:
    cache = LatentCache(latent_caches(config, opened, runtime), mode=config.data_defaults.vae_cache_mode)
    codec = plans.codec(config, runtime)
    broken = cache.fill(opened.encoded, codec, config.data_defaults.vae_batch_size, reporter)
    _refuse_broken_partners(opened, broken)
    training, evaluation = (
        tuple(dataset.without(broken.get(dataset.id, {}), reporter) for dataset in datasets)
        for datasets in (opened.training, opened.evaluation)
    )
    return cache, Opened(training, evaluation)


def _refuse_broken_partners(opened: Opened, broken: dict[str, dict[str, str]]) -> None:
    """An image can be left out; a partner cannot, without its image."""
    for dataset in opened.whole:
        for condition in dataset.conditions:
            if reasons := broken.get(condition.dataset.id):
                some = "".join(f"\n  {reason}" for reason in list(reasons.values())[:8])
                raise DataError(
                    f"data set '{condition.dataset.id}': {len(reasons)} of its images cannot be used:{some}\n"
                    f"Mend them, or take them and the images of '{dataset.id}' that they belong to away."
                )


def _caches(
    datasets: Sequence[Dataset],
    store_of: Callable[[DataBackend], Store],
    keeping_of: Callable[[DataBackend], Keeping],
    recipe: str,
) -> dict[str, TensorCache]:
    """The cache of each data set by its id; data sets of one place share one, so that it is listed once."""
    known: dict[tuple[str, Keeping], TensorCache] = {}
    found: dict[str, TensorCache] = {}
    for dataset in datasets:
        keeping = keeping_of(dataset.options)
        store = store_of(dataset.options)
        place = (store.name if keeping.kept else "", keeping)
        if place not in known:
            known[place] = tensors.opened(store, recipe, on_demand=keeping.on_demand, disable=not keeping.kept)
        found[dataset.id] = known[place]
    return found
