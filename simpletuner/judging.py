"""What shows how training goes: the parts of a run that draw pictures, and that measure the loss on other images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner import plans
from simpletuner.config import RunConfig
from simpletuner.data.sampler import Order
from simpletuner.keeping import checkpoints, epochs_over, facts
from simpletuner.models import memory_plans
from simpletuner.models.skipping import Skip
from simpletuner.models.trained import Trained
from simpletuner.preparation import Prepared
from simpletuner.progress import Reporter
from simpletuner.training import ema, references
from simpletuner.training.batches import Prompts
from simpletuner.training.evaluation import Evaluation
from simpletuner.training.looks import looks
from simpletuner.training.occasions import Occasions
from simpletuner.training.previews import Previews
from simpletuner.training.runtime import Runtime
from simpletuner.training.schedule import Schedule
from simpletuner.training.scripts import Script
from simpletuner.training.shown import Shown
from simpletuner.training.studio import Studio
from simpletuner.training.validation import Validation
from simpletuner.training.validation_script import ValidationScript

if TYPE_CHECKING:
    from torch import nn


def validation(
    config: RunConfig,
    prepared: Prepared,
    texts: Prompts,
    *,
    order: Order,
    transformer: nn.Module,
    trained: Trained,
    runtime: Runtime,
    reporter: Reporter,
) -> Validation:
    """What draws pictures; `texts` knows what the prompts mean to the model, and other adapters fit `transformer`."""
    options, folder = config.validation, Path(config.run.output_dir)
    previews = Previews(options.validation_preview_model, options.validation_preview_steps, folder, reporter, runtime)
    return Validation(
        options=options,
        shots=prepared.shots,
        studio=_studio(config, prepared, texts, runtime, reporter),
        folder=folder,
        reporter=reporter,
        looks=ema.looks(looks(options, transformer), trained, config.ema.ema_validation),
        previews=previews if options.validation_preview else None,
        occasions=Occasions(options.steps_between(), options.validation_epoch_interval or 0, epochs_over(order)),
        first_step=_first_step(config, order),
        script=_script(config, reporter),
        strength=options.validation_lycoris_strength if config.adapter.lora_type == "lycoris" else 1.0,
    )


def _script(config: RunConfig, reporter: Reporter) -> ValidationScript | None:
    """The command that draws pictures instead of this program."""
    options, folder = config.validation, Path(config.run.output_dir)
    if options.validation_method != "external-script" or options.validation_external_script is None:
        return None
    known = {**facts(config), **{name: str(value) for name, value in options.model_dump().items()}}
    log = folder / "validation_external_script.log"
    script = Script("validation_external_script", options.validation_external_script, known, log, reporter)
    return ValidationScript(script, checkpoints(config), reporter, waits=not options.validation_external_background)


def _first_step(config: RunConfig, order: Order) -> int:
    options = config.validation
    epochs = order.pace.steps_for(order.batches_in(options.validate_after_epoch or 0))
    return max(options.validate_after_step or 0, epochs)


def _studio(config: RunConfig, prepared: Prepared, texts: Prompts, runtime: Runtime, reporter: Reporter) -> Studio:
    options = config.validation
    example = references.example(prepared.datasets)
    return Studio(
        codec=lambda tiled: plans.codec(config, runtime, tiled=True)() if tiled else prepared.codec(),
        schedule=partial(plans.family(config).sampling_schedule, prepared.weights),
        prompts=texts,
        base=plans.name_of_base(config, runtime) + (f"/{example.name}" if example else ""),
        runtime=runtime,
        reporter=reporter,
        references=Shown(example, prepared.latents, prepared.codec, is_followed=config.model.controlnet),
        of_data=prepared.image,
        sampler=options.sampler(),
        real_from=options.validation_no_cfg_until_timestep,
        skip=_skip(config),
        can_step_aside=memory_plans.offload(config.memory) is None,
    )


def _skip(config: RunConfig) -> Skip | None:
    options = config.validation
    if not options.validation_guidance_skip_layers:
        return None
    return Skip(
        options.validation_guidance_skip_layers,
        options.validation_guidance_skip_scale,
        options.validation_guidance_skip_layers_start,
        options.validation_guidance_skip_layers_stop,
    )


def evaluation(
    config: RunConfig, schedule: Schedule, prepared: Prepared, texts: Prompts, runtime: Runtime, reporter: Reporter
) -> Evaluation | None:
    """What measures the loss on images that are not trained on, when there are any."""
    options = config.validation
    wanted = [one for one in prepared.evaluation if options.measures(one.id)]
    if not schedule.evaluate_every or not wanted:
        return None
    return Evaluation(
        datasets=wanted,
        latents=prepared.latents,
        prompts=texts,
        runtime=runtime,
        reporter=reporter,
        shift=partial(plans.noise_shift, config),
        guidance=config.objective.flux_guidance_value,
        images=options.num_eval_images,
        levels=options.eval_timesteps,
        is_pooled=options.eval_dataset_pooling,
    )
