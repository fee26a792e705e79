"""Options that do nothing because of what another section of the config says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simpletuner.data.generators.expansion import expand
from simpletuner.data.sources import DataBackend

if TYPE_CHECKING:
    from simpletuner.config import RunConfig


def remarks(config: RunConfig) -> Iterator[str]:
    """Each of them, with the reason."""
    yield from _of_uploads(config)
    yield from _of_masks(config)
    if config.validation.validation_lycoris_strength != 1 and config.adapter.lora_type != "lycoris":
        yield f"validation_lycoris_strength has no effect: lora_type is {config.adapter.lora_type}"


def _of_uploads(config: RunConfig) -> Iterator[str]:
    options, tracking = config.publishing, config.tracking
    for option in ("push_checkpoints_to_hub", "hub_branch"):
        if options.__dict__[option] and not options.push_to_hub:
            yield f"{option} has no effect: push_to_hub is not set"
    if "webhook_reporting_interval" in tracking.model_fields_set and not tracking.webhook_config:
        yield "webhook_reporting_interval has no effect: webhook_config is not set"


def _of_masks(config: RunConfig) -> Iterator[str]:
    options = config.objective
    kinds = {entry.conditioning_type for entry in expand(config.data)[0] if isinstance(entry, DataBackend)}
    if options.masked_loss_by_area and not kinds & {"mask", "segmentation"}:
        yield "masked_loss_by_area has no effect: there is no conditioning data set of masks or segmentations"
    if options.masked_loss_probability != 1 and "segmentation" not in kinds:
        yield "masked_loss_probability has no effect: there is no conditioning data set of segmentations"
