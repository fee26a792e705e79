"""The caches of a config, opened, with all that it needs in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from simpletuner import levers, plans
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.upkeep import Place, places
from simpletuner.cli.choosing import chosen
from simpletuner.cli.console import Console
from simpletuner.cli.quiet import quiet
from simpletuner.config import RunConfig, load
from simpletuner.data.dataset import Dataset
from simpletuner.data.opening import Opened
from simpletuner.demo.start import prepare_demo
from simpletuner.preparation import latent_caches, open_data, prepare, text_caches, wanted_prompts
from simpletuner.progress import Notice, Reporter
from simpletuner.training import prompts
from simpletuner.training.runtime import Runtime, fits_memory

Only = Callable[[str], bool]
"""Says of the key of a missing entry whether it is made now."""


def nothing(key: str) -> bool:
    """Make nothing: only look."""
    return False


@dataclass(frozen=True)
class Caches:
    """What a config keeps, and where."""

    config: RunConfig
    datasets: Sequence[Dataset]
    """All whose images are encoded."""
    latents: LatentCache
    prompts: PromptCache
    reporter: Reporter
    bases: Sequence[Path]
    """Where the packed base of the config is kept; none where it is not packed."""

    def places(self) -> list[Place]:
        """Each place with everything that the config needs in it."""
        return places({"captions": self.prompts.wanted(), "images": self.latents.wanted()})


@contextmanager
def look(
    config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...], *, only: Only | None
) -> Iterator[Caches]:
    """The caches of a config, after what is missing has been made, as far as `only` says so; all of it for None."""
    quiet()
    selection, words = chosen(config, env, example, overrides)
    if selection.example == "demo":
        prepare_demo()
    reading = load(selection, words, environment=os.environ)
    console = Console()
    for text in reading.notices:
        console.report(Notice(text))
    with fits_memory(levers.memory(reading.config)):
        try:
            yield _surveyed(reading.config, console, only)
        finally:
            console.close()


def _surveyed(config: RunConfig, reporter: Reporter, only: Only | None) -> Caches:
    mixed = config.precision.mixed_precision
    runtime = Runtime.start("bf16" if mixed == "bf16" else "no", plans.seed_of_run(config, None))
    packed = plans.kept_base(config, runtime, config.model.weights())
    bases = [packed.place] if packed else []
    if only is None:
        prepared = prepare(config, runtime, reporter)
        datasets = Opened(prepared.datasets, prepared.evaluation).encoded
        return Caches(config, datasets, prepared.latents, prepared.prompts, reporter, bases)
    opened = open_data(config, reporter)
    texts = _texts(config, opened, runtime, reporter, only)
    latents = LatentCache(latent_caches(config, opened, runtime), mode=config.data_defaults.vae_cache_mode)
    codec = plans.codec(config, runtime)
    latents.fill(opened.encoded, codec, config.data_defaults.vae_batch_size, reporter, only=only)
    return Caches(config, opened.encoded, latents, texts, reporter, bases)


def _texts(config: RunConfig, opened: Opened, runtime: Runtime, reporter: Reporter, only: Only) -> PromptCache:
    shots = () if config.validation.validation_disable else prompts.shots(config.validation, runtime.seed)
    wanted = list(wanted_prompts(config, opened, shots, text_caches(config, opened, runtime)))
    cache, size = PromptCache(), config.data_defaults.text_encoder_batch_size
    cache.fill(wanted, plans.text_encoder(config, runtime), size, reporter, only=only)
    return cache
