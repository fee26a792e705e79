"""What does not go together although each option is right by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simpletuner.errors import Problem
from simpletuner.models.sources import is_folder, looks_like_path

if TYPE_CHECKING:
    from simpletuner.config import RunConfig


def check(config: RunConfig) -> list[Problem]:
    """Every contradiction between sections."""
    return [*_weights(config), *_publishing(config), *_routes(config), *_targets(config), *_every_block(config)]


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


def _routes(config: RunConfig) -> Iterator[Problem]:
    tread = config.routing.tread_config
    for number, route in enumerate(tread.routes if tread else ()):
        same_side = (route.start_layer_idx < 0) == (route.end_layer_idx < 0)
        if same_side and route.end_layer_idx < route.start_layer_idx:
            yield Problem(
                f"tread_config.routes.{number}",
                f"ends at block {route.end_layer_idx}, before it starts at {route.start_layer_idx}; swap them",
            )


def _targets(config: RunConfig) -> Iterator[Problem]:
    adapter = config.adapter
    if adapter.peft_lora_target_modules is not None and not adapter.peft_lora_target_modules:
        yield Problem("peft_lora_target_modules", "names no layer; name some, or leave it out for flux_lora_target")


def _every_block(config: RunConfig) -> Iterator[Problem]:
    interval = config.memory.gradient_checkpointing_interval
    if interval not in {None, 1}:
        yield Problem("gradient_checkpointing_interval", f"{interval} is not served yet; use 1, which is every block")
