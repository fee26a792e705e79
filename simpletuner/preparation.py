"""What comes before training: scan the data, then encode what no cache holds; encoders come and go in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from simpletuner import plans, seeds
from simpletuner.caching import tensors
from simpletuner.caching.images import Broken
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.config import RunConfig
from simpletuner.data import plan
from simpletuner.data.dataset import Dataset
from simpletuner.data.holes import KIND as HOLES
from simpletuner.data.holes import with_holes
from simpletuner.data.opening import Opened, open_all
from simpletuner.data.pace import Pace
from simpletuner.data.plan import Keeping
from simpletuner.data.sources import DataBackend, DataEntry
from simpletuner.errors import DataError
from simpletuner.models import controlling, families
from simpletuner.models.family import LatentCodec, Weights
from simpletuner.models.lasting import Lasting
from simpletuner.progress import Reporter
from simpletuner.storage.store import Store
from simpletuner.training import prompts, starts
from simpletuner.training.prompts import Shot
from simpletuner.training.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


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
    codec: Lasting[LatentCodec]
    """Opens the image encoder and decoder."""

    def image(self, dataset: str, place: int) -> Tensor:
        """The latents of an image that validation starts from, with shape (channels, height, width)."""
        (found,) = [one for one in self.datasets if one.id == dataset]
        mean, _ = self.latents.get(dataset, found.records[place])
        return mean

    def close(self) -> None:
        """Give back the encoders that were opened on demand."""
        self.latents.close()
        self.prompts.close()
        self.codec.close()


def prepare(config: RunConfig, runtime: Runtime, reporter: Reporter, pace: Pace | None = None) -> Prepared:
    """Scan the data, then encode what is not cached: the encoders come and go in here.

    `pace` says how many batches the steps take, where that is not the same in the whole run.
    """
    opened = runtime.group.in_turn(lambda: open_data(config, reporter, parts=pace.parts if pace else 1))
    _refuse_other_data(opened, runtime)
    plans.schedule(config, plans.order(config, opened.training, runtime, pace))  # refuses gaps before hours of encoding
    shots = () if config.validation.validation_disable else prompts.shots(config.validation, runtime.seed)
    texts = _encode_prompts(config, opened, shots, runtime, reporter)
    runtime.release()
    codec = Lasting(plans.codec(config, runtime), stays=config.memory.keep_vae_loaded)
    latents, usable = _encode_images(config, opened, codec, runtime, reporter)
    runtime.release()
    if not config.validation.validation_disable:
        shots += starts.of_data(config.validation, usable.training, runtime.seed)
    return Prepared(usable.training, usable.evaluation, latents, texts, shots, config.model.weights(), codec)


def _refuse_other_data(opened: Opened, runtime: Runtime) -> None:
    """Processes on several machines must see the same images."""
    seen = runtime.group.every(lambda: {one.id: one.fingerprint() for one in opened.whole})
    for id, fingerprint in seen[0].items():
        others = [rank for rank, one in enumerate(seen) if one.get(id) != fingerprint]
        if others:
            raise DataError(
                f"data set '{id}' has other images on the machine of process {others[0]} than on the first one; give "
                f"all machines the same files."
            )


def open_data(config: RunConfig, reporter: Reporter, *, allows_silence: bool = False, parts: int = 1) -> Opened:
    """Scan every data set of a run, and say what was found.

    Args:
        config: The run.
        reporter: Told what was found.
        allows_silence: Lets images without a caption through, and looks at data sets that the run does not use too.
        parts: How many batches of the size in the config make one of the size that the run began with.
    """
    opened = open_all(
        config.data if allows_silence else _used(config),
        config.data_defaults,
        train_batch_size=config.duration.train_batch_size * parts,
        cache=plans.cache_folder(config),
        # Without a seed of its own, a run keeps the crops of the run before, and with them the cache.
        seed=config.run.seed or 0,
        reporter=reporter,
        caption_dropout=config.objective.caption_dropout_probability,
        allows_silence=allows_silence,
    )
    return _as_seen(config, opened)


def _as_seen(config: RunConfig, opened: Opened) -> Opened:
    """Masks become holes for a model that fills them, and what is followed lies over the image where that is asked."""
    change: Callable[[Dataset], Dataset]
    if families.fills(config.model.model_family, config.model.model_flavour):
        change = with_holes
    elif config.model.control:
        change = partial(Dataset.with_kind, before=controlling.KIND, after=controlling.OVERLAY)
    else:
        return opened
    return Opened(tuple(map(change, opened.training)), tuple(map(change, opened.evaluation)))


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
    cache, encoder = PromptCache(), plans.text_encoder(config, runtime)
    size = config.data_defaults.text_encoder_batch_size
    _shared(runtime, lambda only: cache.fill(wanted, encoder, size, reporter, only=only))
    return cache


def _shared(runtime: Runtime, fill: Callable[[Callable[[str], bool] | None], T]) -> T:
    """Fill a cache: each process makes its share, and then whatever is still missing where it is."""
    place = runtime.group.place
    if place.processes > 1:
        runtime.group.all_at_once(lambda: fill(lambda key: seeds.derive(0, key) % place.processes == place.rank))
    return runtime.group.in_turn(lambda: fill(None))


def _encode_images(
    config: RunConfig, opened: Opened, codec: Lasting[LatentCodec], runtime: Runtime, reporter: Reporter
) -> tuple[LatentCache, Opened]:
    cache = LatentCache(latent_caches(config, opened, runtime), mode=config.data_defaults.vae_cache_mode)
    size = config.data_defaults.vae_batch_size
    mine = _shared(runtime, lambda only: cache.fill(opened.encoded, codec, size, reporter, only=only))
    broken = _joined(runtime.group.every(lambda: mine))
    _refuse_broken_partners(opened, broken)
    training, evaluation = (
        tuple(dataset.without(broken.get(dataset.id, {}), reporter) for dataset in datasets)
        for datasets in (opened.training, opened.evaluation)
    )
    return cache, Opened(training, evaluation)


def _joined(found: Sequence[Broken]) -> dict[str, dict[str, str]]:
    """What any process could not read: all have to leave the same images out."""
    joined: dict[str, dict[str, str]] = {}
    for one in found:
        for id, reasons in one.items():
            joined[id] = {**reasons, **joined.get(id, {})}
    return joined


def _refuse_broken_partners(opened: Opened, broken: dict[str, dict[str, str]]) -> None:
    """An image can be left out; a partner cannot, without its image."""
    for dataset in opened.whole:
        for condition in dataset.conditions:
            if condition.kind != HOLES and (reasons := broken.get(condition.dataset.id)):
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
