"""What does not go together although each option is right by itself."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.data.checks import among_pictures
from simpletuner.data.entries import where
from simpletuner.data.generators.expansion import expand
from simpletuner.data.sources import DataBackend
from simpletuner.errors import Problem
from simpletuner.models.sources import is_folder, looks_like_path

if TYPE_CHECKING:
    from simpletuner.config import RunConfig
    from simpletuner.models.options import Routing, TreadRoute


def check(config: RunConfig) -> list[Problem]:
    """Every contradiction between sections."""
    return [
        *_weights(config),
        *_publishing(config),
        *routes(config.routing),
        *_targets(config),
        *_every_block(config),
        *_conditions(config),
        *_folders(config),
        *_evaluation(config),
        *_early_end(config),
    ]


def _weights(config: RunConfig) -> Iterator[Problem]:
    for option in (
        "pretrained_model_name_or_path",
        "pretrained_transformer_model_name_or_path",
        "pretrained_vae_model_name_or_path",
    ):
        source = config.model.__dict__[option]
        if source is None or is_folder(source):
            continue
        if source.endswith((".safetensors", ".gguf", ".sft")):
            yield Problem(
                option, f"'{source}' is a single file, which is not served yet; use a folder in diffusers layout"
            )
        elif looks_like_path(source):
            yield Problem(
                option, f"there is no folder '{source}'; give a folder in diffusers layout, or an id on the Hub"
            )


def _publishing(config: RunConfig) -> Iterator[Problem]:
    named = config.publishing.hub_model_id
    if config.publishing.push_to_hub and named and "://" in named:
        yield Problem("hub_model_id", f"'{named}' is an address; give the id alone, such as you/my-lora")


def routes(options: Routing) -> Iterator[Problem]:
    """Routes that end before they start, or go through blocks of an earlier one."""
    given = options.tread_config.routes if options.tread_config else ()
    for number, route in enumerate(given):
        where = f"tread_config.routes.{number}"
        start, end = route.start_layer_idx, route.end_layer_idx
        if (start < 0) == (end < 0) and end < start:
            yield Problem(where, f"ends at block {end}, before it starts at {start}; swap them")
        for other in given[:number]:
            if _share_blocks(route, other):
                span = f"{other.start_layer_idx} to {other.end_layer_idx}"
                yield Problem(
                    where, f"goes through blocks of the route from {span}; let one begin after the other ends"
                )


def _share_blocks(one: TreadRoute, other: TreadRoute) -> bool:
    """Whether two routes surely overlap; numbers from the front and from behind cannot be compared yet."""
    starts = (one.start_layer_idx, other.start_layer_idx)
    ends = (one.end_layer_idx, other.end_layer_idx)
    is_comparable = len({number < 0 for number in (*starts, *ends)}) == 1
    return is_comparable and max(starts) <= min(ends)


def _targets(config: RunConfig) -> Iterator[Problem]:
    adapter = config.adapter
    if adapter.peft_lora_target_modules is not None and not adapter.peft_lora_target_modules:
        yield Problem("peft_lora_target_modules", "names no layer; name some, or leave it out for flux_lora_target")


def _every_block(config: RunConfig) -> Iterator[Problem]:
    interval = config.memory.gradient_checkpointing_interval
    if interval not in {None, 1}:
        yield Problem("gradient_checkpointing_interval", f"{interval} is not served yet; use 1, which is every block")


def _conditions(config: RunConfig) -> Iterator[Problem]:
    """Conditioning data sets that nothing in the model can take."""
    for entry in expand(config.data)[0]:
        if isinstance(entry, DataBackend) and entry.conditioning_type in _TAKEN_BY:
            yield Problem(
                where(entry, "conditioning_type"),
                f"'{entry.conditioning_type}' is for {_TAKEN_BY[entry.conditioning_type]}, which is not served yet; "
                f"leave these images out",
            )


def _folders(config: RunConfig) -> Iterator[Problem]:
    """Folders that a run writes to, among pictures that it must not touch."""
    folders = {"output_dir": config.run.output_dir, "cache_dir": config.run.cache_dir or Path("cache")}
    for option, folder in folders.items():
        if wrong := among_pictures(folder, config.data):
            yield Problem(option, wrong)


def _evaluation(config: RunConfig) -> Iterator[Problem]:
    """A measurement of the loss without data, and data without a measurement."""
    options = config.validation
    known = [entry.id for entry in config.data if isinstance(entry, DataBackend) and entry.dataset_type == "eval"]
    named = options.eval_dataset_id
    if named is not None and named not in known:
        names = ", ".join(known) or "there is none"
        yield Problem("eval_dataset_id", f"no eval data set is called '{named}'; known are: {names}")
    for option in ("eval_steps_interval", "eval_epoch_interval"):
        if options.__dict__[option] is not None and not known:
            yield Problem(option, "there is no data set of dataset_type eval to measure the loss on; add one")


def _early_end(config: RunConfig) -> Iterator[Problem]:
    """A run that goes on after the last step of its last data set."""
    steps = config.duration.max_train_steps or 0
    used = [
        entry
        for entry in config.data
        if isinstance(entry, DataBackend) and entry.dataset_type == "image" and entry.probability > 0
    ]
    last = max((entry.end_step or 0 for entry in used), default=0)
    if all((entry.end_step or 0) > 0 for entry in used) and 0 < last < steps:
        what = (
            f"is {steps}, but no data set is left after step {last}; lower it, or change an end_step in the data file"
        )
        yield Problem("max_train_steps", what)


def remarks(config: RunConfig) -> Iterator[str]:
    """What has no effect as the options stand together."""
    options = config.validation
    has_data = any(isinstance(entry, DataBackend) and entry.dataset_type == "eval" for entry in config.data)
    for option in ("num_eval_images", "eval_timesteps", "eval_dataset_pooling"):
        if not has_data and options.__dict__[option] != type(options).model_fields[option].default:
            yield f"{option} has no effect: there is no data set of dataset_type eval"
    for entry in config.data:
        is_eval = isinstance(entry, DataBackend) and entry.dataset_type == "eval"
        if is_eval and not options.measures(entry.id):
            is_other = options.eval_dataset_id not in (None, entry.id)
            remedy = f"eval_dataset_id is {options.eval_dataset_id}" if is_other else _TO_MEASURE
            yield f"{where(entry)} is not used: {remedy}"
    yield from _too_late(config)


def _too_late(config: RunConfig) -> Iterator[str]:
    """Data sets that start after the run has ended, where its length is known."""
    steps, epochs = config.duration.max_train_steps or inf, config.duration.num_train_epochs or inf
    for entry in config.data:
        if isinstance(entry, DataBackend) and entry.dataset_type == "image":
            if entry.start_step > steps:
                yield f"{where(entry)} is not used: it starts at step {entry.start_step}, and the run ends at {steps}"
            elif entry.start_epoch >= epochs + 1:
                yield f"{where(entry)} is not used: it starts in epoch {entry.start_epoch} of {epochs:g}"


_TAKEN_BY = {
    "controlnet": "controlnet: true",
    "reference_strict": "model_flavour kontext",
    "reference_loose": "model_flavour kontext",
}

_TO_MEASURE = "set eval_steps_interval to measure the loss on it"
