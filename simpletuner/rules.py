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
from simpletuner.models import families, memory_plans
from simpletuner.models.adapters import planning
from simpletuner.models.attention import ATTENTIONS
from simpletuner.models.families import FAMILIES
from simpletuner.models.memory_plans import Circumstances
from simpletuner.models.precision import activation_problem, full_training_problem, missing_package
from simpletuner.models.references import KINDS
from simpletuner.models.sources import wrong_with

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
        *memory_plans.conflicts(config.memory, circumstances(config)),
        *planning.conflicts(config.adapter, config.precision.base_model_precision),
        *_conditions(config),
        *families.unmet(config.model.model_family, config.model.model_flavour, config.flat()),
        *_references(config),
        *_masks(config),
        *_precision(config),
        *_fused(config),
        *_folders(config),
        *_evaluation(config),
        *_early_end(config),
    ]


def _weights(config: RunConfig) -> Iterator[Problem]:
    for option in (
        "pretrained_model_name_or_path",
        "pretrained_transformer_model_name_or_path",
        "pretrained_vae_model_name_or_path",
        "pretrained_t5_model_name_or_path",
        "text_encoder_path",
    ):
        source = config.model.__dict__[option]
        if source is not None and (wrong := wrong_with(source)):
            yield Problem(option, wrong)
    yield from FAMILIES[config.model.model_family].missing(config.model.weights())


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


def circumstances(config: RunConfig) -> Circumstances:
    """What memory options depend on in other sections."""
    return Circumstances(
        is_packed=config.precision.base_model_precision != "no_change",
        trains_weights=config.model.model_type == "full",
        reads_weights=config.adapter.use_dora or config.adapter.lora_type == "lycoris",
        joins_projections=config.adapter.fuse_qkv_projections,
        routes_tokens=config.routing.tread_config is not None,
    )


def _conditions(config: RunConfig) -> Iterator[Problem]:
    """Conditioning data sets that nothing in the model can take."""
    if families.takes_references(config.model.model_family, config.model.model_flavour):
        return
    for entry in expand(config.data)[0]:
        if isinstance(entry, DataBackend) and entry.conditioning_type in _TAKEN_BY:
            yield Problem(
                where(entry, "conditioning_type"),
                f"'{entry.conditioning_type}' is for {_TAKEN_BY[entry.conditioning_type]}, which is not served yet; "
                f"leave these images out",
            )


def _references(config: RunConfig) -> Iterator[Problem]:
    """Pictures to look at for a model that cannot, none for one that has to, and such that make no batch."""
    model = config.model
    given = [one for one in expand(config.data)[0] if isinstance(one, DataBackend) and one.conditioning_type in KINDS]
    if families.takes_references(model.model_family, model.model_flavour):
        if not given:
            yield Problem(
                "model_flavour",
                f"'{model.model_flavour}' changes pictures, and no data set has any to start from; add one with "
                f"conditioning_type reference_strict, or use the flavour dev",
            )
        return
    for entry in given:
        if entry.conditioning_type in _TAKEN_BY:
            continue
        yield Problem(
            where(entry, "conditioning_type"),
            f"'{entry.conditioning_type}' is for model_flavour kontext; set that, or leave these images out",
        )


def _masks(config: RunConfig) -> Iterator[Problem]:
    """Kernels that cannot hide tokens, for models that have to."""
    chosen = config.memory.attention_mechanism
    hides = config.objective.flux_attention_masked_training or families.masks_prompts(config.model.model_family)
    if hides and not ATTENTIONS[chosen].takes_masks:
        yield Problem("attention_mechanism", f"'{chosen}' cannot hide the padding of prompts; use diffusers")


def _folders(config: RunConfig) -> Iterator[Problem]:
    """Folders that a run writes to, among pictures that it must not touch."""
    folders = {"output_dir": config.run.output_dir, "cache_dir": config.run.cache_dir or Path("cache")}
    for option, folder in folders.items():
        if wrong := among_pictures(folder, config.data):
            yield Problem(option, wrong)


def _fused(config: RunConfig) -> Iterator[Problem]:
    """Updates inside the backward pass, with what needs all gradients at once."""
    options = config.optimization
    if not options.fused_backward_pass:
        return
    if config.duration.gradient_accumulation_steps > 1:
        yield Problem("fused_backward_pass", "needs gradient_accumulation_steps 1; set that, or leave it out")
    if options.max_grad_norm > 0 and options.grad_clip_method != "value":
        what = "cannot know the norm of all gradients; set grad_clip_method to value, or max_grad_norm to 0"
        yield Problem("fused_backward_pass", what)


def _precision(config: RunConfig) -> Iterator[Problem]:
    """Precisions whose packages are missing, or that do not go with something else."""
    options = config.precision
    for option in ("base_model_precision", "text_encoder_1_precision", "text_encoder_2_precision"):
        if said := missing_package(options.__dict__[option]):
            yield Problem(option, said)
    wanted = options.quantize_activations
    if said := activation_problem(options.base_model_precision, activations=wanted):
        yield Problem("quantize_activations", said)
    if config.model.model_type == "full" and (said := full_training_problem(options.base_model_precision)):
        yield Problem("base_model_precision", said)


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
    yield from memory_plans.remarks(config.memory)
    yield from planning.notices(config.adapter)
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
}

_TO_MEASURE = "set eval_steps_interval to measure the loss on it"
