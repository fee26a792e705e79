"""What is allowed in a config and worth telling: options that do nothing, or mean something else than they seem to."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

from simpletuner.data.entries import where
from simpletuner.data.generators.expansion import expand
from simpletuner.data.sources import DataBackend
from simpletuner.models import memory_plans
from simpletuner.models.adapters import planning, text_planning
from simpletuner.models.families import FAMILIES
from simpletuner.training import save_plans, update_plans
from simpletuner.training.objective import together
from simpletuner.training.optimizers import OPTIMIZERS
from simpletuner.training.wrong_pictures import idle_pictures, unread

if TYPE_CHECKING:
    from simpletuner.config import RunConfig


def remarks(config: RunConfig) -> Iterator[str]:
    """Each of them, in the order of the sections."""
    yield from memory_plans.remarks(config.memory)
    yield from planning.notices(config.adapter, config.precision.base_model_precision)
    yield from text_planning.remarks(config.adapter)
    yield from update_plans.remarks(config.optimization)
    yield from _rates(config)
    yield from save_plans.remarks(config.run, config.checkpoints, config.ema)
    yield from together.remarks(config.objective)
    yield from _unread(config)
    yield from unread(config.validation)
    yield from idle_pictures(config.validation)
    if config.validation.validation_lycoris_strength != 1 and config.adapter.lora_type != "lycoris":
        yield f"validation_lycoris_strength has no effect: lora_type is {config.adapter.lora_type}"
    yield from _of_uploads(config)
    yield from _of_masks(config)
    yield from _of_evaluation(config)
    yield from _too_late(config)


def _of_evaluation(config: RunConfig) -> Iterator[str]:
    """Options of a measurement without data, and data that nothing is measured on."""
    options = config.validation
    has_data = any(isinstance(entry, DataBackend) and entry.dataset_type == "eval" for entry in config.data)
    for option in ("num_eval_images", "eval_timesteps", "eval_dataset_pooling"):
        if not has_data and options.__dict__[option] != type(options).model_fields[option].default:
            yield f"{option} has no effect: there is no data set of dataset_type eval"
    if has_data:
        yield from _never_measured(config)
    for entry in config.data:
        is_eval = isinstance(entry, DataBackend) and entry.dataset_type == "eval"
        if is_eval and not options.measures(entry.id):
            is_other = options.eval_dataset_id not in (None, entry.id)
            remedy = f"eval_dataset_id is {options.eval_dataset_id}" if is_other else _TO_MEASURE
            yield f"{where(entry)} is not used: {remedy}"


def _never_measured(config: RunConfig) -> Iterator[str]:
    """Measurements that would come after the end of the run, where its length is known."""
    options, duration = config.validation, config.duration
    if (options.eval_steps_interval or 0) > (duration.max_train_steps or inf):
        yield f"eval_steps_interval has no effect: the run ends at step {duration.max_train_steps}"
    if (options.eval_epoch_interval or 0) > (duration.num_train_epochs or inf):
        yield f"eval_epoch_interval has no effect: the run ends after epoch {duration.num_train_epochs:g}"


def _unread(config: RunConfig) -> Iterator[str]:
    """Options that were changed although no model of the family reads them."""
    sections = (config.precision, config.objective, config.validation)
    for name, why in FAMILIES[config.model.model_family].unread.items():
        for section in sections:
            field = type(section).model_fields.get(name)
            if field is not None and section.__dict__[name] != field.default:
                yield f"{name} has no effect: {why}"


def _rates(config: RunConfig) -> Iterator[str]:
    """Learning rates that are not what they seem to be, and averages of averages."""
    options = config.optimization
    recipe = OPTIMIZERS.get(options.optimizer)
    if recipe is None:  # not served, which is said elsewhere
        return
    adapter = config.adapter
    has_own = {
        "text_encoder_lr": bool(text_planning.wanted(adapter) and adapter.text_encoder_lr),
        "lr in lora_layers": any(one.lr is not None for one in adapter.lora_layers),
    }
    if said := update_plans.as_factors(options):
        yield from (f"{name} {said}" for name, is_given in has_own.items() if is_given)
    if config.duration.max_train_steps:
        yield from update_plans.too_long(options, config.duration.max_train_steps)
    if config.ema.use_ema and recipe.averages:
        yield f"use_ema averages once more: optimizer {options.optimizer} keeps an average already; leave it out"


def _too_late(config: RunConfig) -> Iterator[str]:
    """Data sets that start after the run has ended, where its length is known."""
    steps, epochs = config.duration.max_train_steps or inf, config.duration.num_train_epochs or inf
    for entry in config.data:
        if isinstance(entry, DataBackend) and entry.dataset_type == "image":
            if entry.start_step > steps:
                yield f"{where(entry)} is not used: it starts at step {entry.start_step}, and the run ends at {steps}"
            elif entry.start_epoch >= epochs + 1:
                yield f"{where(entry)} is not used: it starts in epoch {entry.start_epoch} of {epochs:g}"


def _of_uploads(config: RunConfig) -> Iterator[str]:
    options, tracking = config.publishing, config.tracking
    for option in ("push_checkpoints_to_hub", "hub_branch"):
        if options.__dict__[option] and not options.push_to_hub:
            yield f"{option} has no effect: push_to_hub is not set"
    if config.checkpoints.post_upload_script and not options.push_to_hub:
        yield "post_upload_script has no effect: push_to_hub is not set"
    usual = type(tracking).model_fields["webhook_reporting_interval"].default
    if tracking.webhook_reporting_interval != usual and not tracking.webhook_config:
        yield "webhook_reporting_interval has no effect: webhook_config is not set"


def _of_masks(config: RunConfig) -> Iterator[str]:
    options = config.objective
    kinds = {entry.conditioning_type for entry in expand(config.data)[0] if isinstance(entry, DataBackend)}
    has_alpha = any(isinstance(entry, DataBackend) and entry.alpha_mask for entry in config.data)
    if options.masked_loss_by_area and not (kinds & {"mask", "segmentation"} or has_alpha):
        yield "masked_loss_by_area has no effect: there is no conditioning data set of masks or segmentations"
    if options.masked_loss_probability != 1 and "segmentation" not in kinds:
        yield "masked_loss_probability has no effect: there is no conditioning data set of segmentations"


_TO_MEASURE = "set eval_steps_interval to measure the loss on it"
