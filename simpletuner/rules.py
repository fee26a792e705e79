"""What does not go together although each option is right by itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner import seeing
from simpletuner.data.checks import among_pictures
from simpletuner.data.entries import where
from simpletuner.data.sources import DataBackend
from simpletuner.errors import Problem
from simpletuner.models import block_numbers, families, memory_plans
from simpletuner.models.adapters import planning, text_planning
from simpletuner.models.attention import ATTENTIONS
from simpletuner.models.families import FAMILIES
from simpletuner.models.memory_plans import Circumstances
from simpletuner.models.precision import activation_problem, full_training_problem, missing_package
from simpletuner.models.sources import wrong_with
from simpletuner.training import crew as crews
from simpletuner.training import save_plans, trackers, update_plans
from simpletuner.training.guards import SKIP
from simpletuner.training.objective import together
from simpletuner.training.publishing.names import wrong_branch, wrong_repository
from simpletuner.training.wrong_pictures import skipped, wrong_pictures

if TYPE_CHECKING:
    from simpletuner.config import RunConfig
    from simpletuner.models.options import Routing, TreadRoute


def check(config: RunConfig) -> list[Problem]:
    """Every contradiction between sections."""
    return [
        *_weights(config),
        *_publishing(config),
        *trackers.missing(config.tracking.report_to),
        *trackers.wrong_project(config.tracking.trackers(), config.tracking.tracker_project_name),
        *(list(routes(config.routing)) or _blocks_named(config)),
        *_targets(config),
        *memory_plans.conflicts(config.memory, circumstances(config)),
        *_adapter(config),
        *seeing.problems(config),
        *families.unmet(config.model.model_family, config.model.model_flavour, config.flat()),
        *_masks(config),
        *_objective(config),
        *_precision(config),
        *update_plans.conflicts(config.optimization),
        *_fused(config),
        *_processes(config),
        *_folders(config),
        *_evaluation(config),
        *wrong_pictures(
            config.validation,
            is_shown_pictures=_is_shown_pictures(config),
            fills=families.fills(config.model.model_family, config.model.model_flavour),
            has_adapter=config.model.model_type == "lora",
        ),
        *skipped(config.validation, partial(FAMILIES[config.model.model_family].block_counts, config.model.weights())),
        *_early_end(config),
        *save_plans.conflicts(config.run, config.checkpoints, config.ema),
    ]


def _weights(config: RunConfig) -> Iterator[Problem]:
    for option in (
        "pretrained_model_name_or_path",
        "pretrained_transformer_model_name_or_path",
        "pretrained_vae_model_name_or_path",
        "pretrained_t5_model_name_or_path",
        "text_encoder_path",
        "controlnet_model_name_or_path",
    ):
        source = config.model.__dict__[option]
        if source is not None and (wrong := wrong_with(source)):
            yield Problem(option, wrong)
    yield from FAMILIES[config.model.model_family].missing(config.model.weights(), follows=config.model.control)


def _publishing(config: RunConfig) -> Iterator[Problem]:
    options, named = config.publishing, config.publishing.hub_model_id
    if not options.push_to_hub:
        return
    if what := wrong_repository(named or config.tracking.tracker_project_name):
        yield Problem(
            "hub_model_id", f"'{named}' {what}" if named else f"is not set, and the name of the project {what}"
        )
    if options.hub_branch and (what := wrong_branch(options.hub_branch)):
        yield Problem("hub_branch", f"'{options.hub_branch}' {what}")


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


def _blocks_named(config: RunConfig) -> Iterator[Problem]:
    counts = partial(FAMILIES[config.model.model_family].block_counts, config.model.weights())
    return block_numbers.problems(config.model, config.adapter, config.routing, counts)


def _targets(config: RunConfig) -> Iterator[Problem]:
    adapter = config.adapter
    if adapter.peft_lora_target_modules is not None and not adapter.peft_lora_target_modules:
        yield Problem("peft_lora_target_modules", "names no layer; name some, or leave it out for flux_lora_target")


def circumstances(config: RunConfig) -> Circumstances:
    """What memory options depend on in other sections."""
    return Circumstances(
        is_packed=config.precision.base_model_precision != "no_change",
        trains_weights=config.model.trains_base,
        reads_weights=config.adapter.use_dora or config.adapter.lora_type == "lycoris",
        joins_projections=config.adapter.fuse_qkv_projections,
        routes_tokens=config.routing.tread_config is not None,
        has_controlnet=config.model.controlnet,
        trains_text=config.adapter.train_text_encoder,
        blocks=_blocks(config),
    )


def _blocks(config: RunConfig) -> tuple[int, ...]:
    """How many blocks there are, looked up only where it matters; those of a ControlNet are never moved."""
    if not memory_plans.counts_blocks(config.memory):
        return ()
    return FAMILIES[config.model.model_family].block_counts(config.model.weights())


def _adapter(config: RunConfig) -> Iterator[Problem]:
    """Options about an adapter that do not go together, and what needs one, or a base that stays as it is."""
    if config.model.model_type == "lora":
        yield from planning.conflicts(config.adapter, config.precision.base_model_precision)
        is_served = FAMILIES[config.model.model_family].open_text is not None
        precisions = (config.precision.text_encoder_1_precision, config.precision.text_encoder_2_precision)
        yield from text_planning.conflicts(
            config.adapter, is_served=is_served, has_controlnet=config.model.controlnet, precisions=precisions
        )
        return
    yield from planning.without_adapter(config.adapter)
    for entry in config.data if config.model.trains_base else ():
        if not isinstance(entry, DataBackend) or entry.regularisation_mode != "parent":
            continue
        if entry.is_regularisation_data:
            yield Problem(
                where(entry, "is_regularisation_data"),
                "is learned from what the base model answers, which is gone after the first step of model_type full; "
                "leave it out to train on these images as on all others, or use model_type lora",
            )


def _masks(config: RunConfig) -> Iterator[Problem]:
    """Kernels that cannot hide tokens, for models that have to."""
    chosen = config.memory.attention_mechanism
    hides = config.objective.flux_attention_masked_training or families.masks_prompts(config.model.model_family)
    if hides and not ATTENTIONS[chosen].takes_masks:
        yield Problem("attention_mechanism", f"'{chosen}' cannot hide the padding of prompts; use diffusers")


def _objective(config: RunConfig) -> Iterator[Problem]:
    """What is trained towards, and data sets whose noise levels are moved although they are not drawn."""
    yield from together.conflicts(config.objective)
    wrong = together.offset_problem(config.objective)
    for entry in config.data:
        if isinstance(entry, DataBackend) and entry.timestep_sampling_offset:
            is_trained = entry.dataset_type == "image"
            what = wrong if is_trained else f"is for images to train on, and this is {entry.dataset_type}; leave it out"
            if what:
                yield Problem(where(entry, "timestep_sampling_offset"), what)


def _folders(config: RunConfig) -> Iterator[Problem]:
    """Folders that a run writes to, among pictures that it must not touch."""
    folders = {"output_dir": config.run.output_dir, "cache_dir": config.run.cache_dir or Path("cache")}
    for option, folder in folders.items():
        if wrong := among_pictures(folder, config.data):
            yield Problem(option, wrong)


def _fused(config: RunConfig) -> Iterator[Problem]:
    """Updates inside the backward pass, with what needs all gradients at once."""
    options = config.optimization
    if not options.updates_in_backward:
        return
    name = update_plans.fused(options)
    if config.duration.gradient_accumulation_steps > 1:
        yield Problem(name, "needs gradient_accumulation_steps 1; set that, or leave it out")
    if options.gradient_limit > 0 and options.grad_clip_method != "value":
        what = "cannot know the norm of all gradients; set grad_clip_method to value, or max_grad_norm to 0"
        yield Problem(name, what)
    if options.non_finite_action == SKIP:
        what = "cannot leave out a step that changed the weights while gradients were made; set it to stop"
        yield Problem("non_finite_action", f"{what}, or leave out {name}")


def _processes(config: RunConfig) -> Iterator[Problem]:
    """Processes that cannot be started, and what a run on several of them cannot do."""
    wrong = list(crews.problems(config.distributed))
    yield from wrong
    if not wrong and config.optimization.updates_in_backward and crews.crew(config.distributed).num_processes > 1:
        name = update_plans.fused(config.optimization)
        yield Problem(name, "cannot wait for the gradients of other processes; set num_processes to 1")


def _precision(config: RunConfig) -> Iterator[Problem]:
    """Precisions whose packages are missing, or that do not go with something else."""
    options = config.precision
    for option in ("base_model_precision", "text_encoder_1_precision", "text_encoder_2_precision"):
        if said := missing_package(options.__dict__[option]):
            yield Problem(option, said)
    wanted = options.quantize_activations
    if said := activation_problem(options.base_model_precision, activations=wanted):
        yield Problem("quantize_activations", said)
    if config.model.trains_base and (said := full_training_problem(options.base_model_precision)):
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


def _is_shown_pictures(config: RunConfig) -> bool:
    """Whether the model looks at pictures besides the prompt."""
    model = config.model
    return model.controlnet or model.control or families.takes_references(model.model_family, model.model_flavour)


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
