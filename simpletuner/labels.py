"""What the files of a run say about themselves: the words they listen to, and how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from simpletuner import plans
from simpletuner.config import RunConfig
from simpletuner.data.dataset import Dataset
from simpletuner.data.sources import DataBackend
from simpletuner.models.family import Weights
from simpletuner.models.sources import is_folder, looks_like_path
from simpletuner.training.metadata import Images, Session, modelspec, session
from simpletuner.training.options.steps import steps_of
from simpletuner.training.schedule import Schedule


def triggers(config: RunConfig) -> list[str]:
    """The words that the adapter listens to."""
    own = [prompt for entry in config.data if isinstance(entry, DataBackend) for prompt in entry.instance_prompt or ()]
    return list(dict.fromkeys([*config.data_defaults.instance_prompt, *own]))


def metadata(
    config: RunConfig, sources: Weights, datasets: Sequence[Dataset], schedule: Schedule, seed: int
) -> dict[str, str]:
    """What the adapter file says about itself."""
    largest = str(max(record.placement.bucket for dataset in datasets for record in dataset.records))
    is_private = config.publishing.private_metadata
    spec = modelspec(
        architecture=_architecture(config, sources),
        title=config.tracking.tracker_run_name,
        resolution=largest,
        triggers=triggers(config),
        comment=config.publishing.modelspec_comment,
        is_private=is_private,
    )
    run = Session(
        name=config.tracking.tracker_run_name,
        base=_public_name(sources.transformer),
        rank=config.adapter.lora_rank,
        alpha=config.adapter.lora_alpha or config.adapter.lora_rank,
        steps=schedule.total_steps,
        batch_size=config.duration.train_batch_size,
        accumulation=schedule.accumulation,
        learning_rate=config.optimization.learning_rate,
        optimizer=config.optimization.optimizer,
        schedule=config.optimization.lr_scheduler,
        warmup=steps_of(config.optimization.lr_warmup_steps, schedule.total_steps),
        seed=seed,
        precision=config.precision.mixed_precision,
        resolution=largest,
        images=[_images(dataset) for dataset in datasets],
    )
    told = {**spec, **session(run, is_private=is_private)}
    if config.model.trains_base or config.adapter.lora_type == "lycoris":  # nothing of it is about a plain LoRA
        told = {name: value for name, value in told.items() if not name.startswith("ss_network_")}
    return told


def _architecture(config: RunConfig, sources: Weights) -> str:
    """What modelspec calls the result: a whole model is called as its base."""
    named = plans.family(config).architecture(sources)
    if config.model.controlnet:
        return named.replace("/lora", "/controlnet-lora" if config.model.model_type == "lora" else "/controlnet")
    return named.removesuffix("/lora") if config.model.trains_base else named


def _images(dataset: Dataset) -> Images:
    # Reading millions of captions would hold up the start; the first ones say which tags are frequent.
    captions = (caption for record in islice(dataset.records, 10_000) for caption in record.captions)
    return Images(dataset.id, len(dataset.records), dataset.repeats + 1, dataset.regularise, captions)


def _public_name(source: str) -> str:
    """An id on the Hub as it is, and of a path only the last part: the rest is nobody's business."""
    return Path(source).name if is_folder(source) or looks_like_path(source) else source
