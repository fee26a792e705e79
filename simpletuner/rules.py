"""What does not go together although each option is right by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simpletuner.errors import Problem
from simpletuner.models.sources import is_folder, looks_like_path

if TYPE_CHECKING:
    from simpletuner.config import RunConfig
    from simpletuner.models.options import Routing, TreadRoute


def check(config: RunConfig) -> list[Problem]:
    """Every contradiction between sections."""
    return [*_weights(config), *_publishing(config), *routes(config.routing), *_targets(config), *_every_block(config)]


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
