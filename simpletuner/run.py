"""One run from a config to a published adapter: read top to bottom, this file is what the program does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from simpletuner import plans
from simpletuner.config import RunConfig
from simpletuner.errors import SimpleTunerError
from simpletuner.models.assemble import assemble
from simpletuner.preparation import Prepared, prepare
from simpletuner.progress import Failed, Finished, JsonLines, Notice, Reporter, RunStarted, Several
from simpletuner.results import PROGRESS, Outcome, finish
from simpletuner.storage.local import LocalStore
from simpletuner.training import checkpoint, optimizers, references
from simpletuner.training.batches import Batches
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.evaluation import Evaluation
from simpletuner.training.fused_backward import UpdatesInBackward
from simpletuner.training.runtime import Runtime, fits_memory
from simpletuner.training.trackers import Identity, open_tracker
from simpletuner.training.trainer import RESOLVED_CONFIG, Schedule, Trainer
from simpletuner.training.validation import Studio, Validation


def train(config: RunConfig, console: Reporter) -> Outcome:
    """Prepare the data, train, validate, publish.

    Raises:
        SimpleTunerError: Something the user can change went wrong; the message says what.
    """
    folder = Path(config.run.output_dir)
    with ExitStack() as open_things:
        reporter = Several(console, JsonLines(folder / PROGRESS), *_trackers(config, folder))
        open_things.callback(reporter.close)
        open_things.enter_context(_told(reporter))
        open_things.enter_context(fits_memory(plans.levers(config)))
        reporter.report(RunStarted(str(folder), config.flat()))
        LocalStore(folder).write(RESOLVED_CONFIG, config.dump().encode())
        checkpoints = Checkpoints(folder, config.checkpoints.checkpoints_total_limit)
        resume_from = checkpoints.chosen(config.run.resume_from_checkpoint, lambda text: reporter.report(Notice(text)))
        for change in plans.changes_since(config, resume_from):
            reporter.report(Notice(f"the checkpoint was made with other options: {change}"))
        for name in checkpoints.set_aside(after=checkpoint.step_of(resume_from)):
            reporter.report(Notice(f"{name} is of a later step than this run starts from; it is {name}.superseded now"))
        runtime = _runtime(config, resume_from)
        prepared = prepare(config, runtime, reporter)
        open_things.callback(prepared.close)
        trainer = build_trainer(config, prepared, checkpoints, runtime, reporter)
        adapter = trainer.fit(resume_from)
        outcome = finish(config, prepared, trainer, adapter, reporter)
        reporter.report(Finished(str(folder), outcome.steps))
    return outcome


@contextmanager
def _told(reporter: Reporter) -> Iterator[None]:
    """Whoever follows the run is told about its end too."""
    try:
        yield
    except SimpleTunerError as error:
        reporter.report(Failed(str(error)))
        raise
    except KeyboardInterrupt:
        reporter.report(Failed("interrupted"))
        raise


def build_trainer(
    config: RunConfig, prepared: Prepared, checkpoints: Checkpoints, runtime: Runtime, reporter: Reporter
) -> Trainer:
    """The network, its adapter, the optimizer and everything else the loop needs."""
    order = plans.order(config, prepared.datasets, runtime)
    schedule = plans.schedule(config, order)
    order = order.with_length(schedule.total_steps)
    batches = Batches(
        prepared.datasets,
        order,
        prepared.prompts,
        prepared.latents,
        runtime.seed,
        references=config.data_defaults.conditioning_multidataset_sampling,
    )
    denoiser = plans.denoiser(config, runtime)
    assembled = assemble(denoiser, plans.assembly(config, runtime))
    rate = plans.learning_rate(config, schedule, runtime)
    optimizer = optimizers.build(
        config.optimization.optimizer,
        plans.parameter_groups(config, assembled.adapter),
        plans.optimizer_settings(config, rate),
    )
    limit = config.optimization.max_grad_norm
    fused = UpdatesInBackward(optimizer, limit=limit) if config.optimization.fused_backward_pass else None
    return Trainer(
        objective=config.objective,
        optimization=config.optimization,
        schedule=schedule,
        learning_rate=rate,
        denoiser=denoiser,
        adapter=assembled.adapter,
        optimizer=runtime.prepare(denoiser.module, optimizer),
        batches=batches,
        validation=_validation(config, prepared, runtime, reporter),
        checkpoints=checkpoints,
        runtime=runtime,
        reporter=reporter,
        shift=partial(plans.noise_shift, config),
        router=assembled.router,
        fused=fused,
        evaluation=_evaluation(config, schedule, prepared, runtime, reporter),
        metadata=plans.metadata(config, prepared.weights, prepared.datasets, schedule, runtime.seed),
        resolved_config=config.dump(),
        data={one.id: {"images": len(one.records), "fingerprint": one.fingerprint()} for one in prepared.datasets},
    )


def _validation(config: RunConfig, prepared: Prepared, runtime: Runtime, reporter: Reporter) -> Validation:
    family = plans.family(config)
    steps = config.validation.validation_num_inference_steps
    schedule = partial(family.sampling_schedule, prepared.weights, steps)
    example = references.example(prepared.datasets)
    base = plans.name_of_base(config, runtime) + (f"/{example.name}" if example else "")
    others = references.of_image(example.dataset, 0, prepared.latents) if example else {}
    studio = Studio(plans.codec(config, runtime), schedule, prepared.prompts, base, others)
    return Validation(config.validation, prepared.shots, studio, Path(config.run.output_dir), runtime, reporter)


def _evaluation(
    config: RunConfig, schedule: Schedule, prepared: Prepared, runtime: Runtime, reporter: Reporter
) -> Evaluation | None:
    options = config.validation
    wanted = [one for one in prepared.evaluation if options.measures(one.id)]
    if not schedule.evaluate_every or not wanted:
        return None
    return Evaluation(
        datasets=wanted,
        latents=prepared.latents,
        prompts=prepared.prompts,
        runtime=runtime,
        reporter=reporter,
        shift=partial(plans.noise_shift, config),
        guidance=config.objective.flux_guidance_value,
        images=options.num_eval_images,
        levels=options.eval_timesteps,
        is_pooled=options.eval_dataset_pooling,
    )


def _trackers(config: RunConfig, folder: Path) -> list[Reporter]:
    tracking = config.tracking
    identity = Identity(
        tracking.tracker_project_name, tracking.tracker_run_name, (folder / config.run.logging_dir).absolute()
    )
    return [open_tracker(name, identity) for name in tracking.trackers()]


def _runtime(config: RunConfig, resume_from: Path | None) -> Runtime:
    mixed = config.precision.mixed_precision
    return Runtime.start("bf16" if mixed == "bf16" else "no", plans.seed_of_run(config, resume_from))
