"""One run from a config to a published adapter: read top to bottom, this file is what the program does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from simpletuner import judging, keeping, levers, plans, preflight, results, resuming, watching
from simpletuner.config import RunConfig
from simpletuner.data.pace import Pace
from simpletuner.errors import CheckpointError, SimpleTunerError, Stopped
from simpletuner.followers import followers
from simpletuner.models import memory_plans
from simpletuner.models.assemble import assemble
from simpletuner.preparation import Prepared, prepare
from simpletuner.progress import Failed, Finished, Notice, Paused, Reporter, RunStarted, Several
from simpletuner.results import Outcome, finish
from simpletuner.storage.local import LocalStore
from simpletuner.training import checkpoint, optimizers, update_plans
from simpletuner.training.batches import Batches, Prompts
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.fused_backward import UpdatesInBackward
from simpletuner.training.group import Group, joined
from simpletuner.training.learning import Learning
from simpletuner.training.place import Place
from simpletuner.training.publishing.publisher import Publisher
from simpletuner.training.runtime import Runtime, fits_memory
from simpletuner.training.saving import RESOLVED_CONFIG
from simpletuner.training.trainer import Trainer
from simpletuner.training.updates import Updates


def train(config: RunConfig, console: Reporter, place: Place | None = None) -> Outcome:
    """Prepare the data, train, validate, publish.

    Args:
        config: The run.
        console: Told what happens.
        place: Which of several processes of the run this one is, where a launcher started several.

    Raises:
        SimpleTunerError: Something the user can change went wrong; the message says what.
    """
    folder = Path(config.run.output_dir)
    with ExitStack() as open_things:
        group = open_things.enter_context(joined(place))
        reporter = Several(*followers(config, console) if group.place.rank == 0 else ())
        open_things.callback(reporter.close)
        open_things.enter_context(_told(reporter))
        preflight.check(config)
        update_plans.try_out(config.optimization)
        open_things.enter_context(fits_memory(levers.memory(config)))
        reporter.report(RunStarted(str(folder), config.flat()))
        for text in preflight.remarks(config):
            reporter.report(Notice(text))
        checkpoints = keeping.checkpoints(config)
        group.first(lambda: preflight.pictures(config))
        resume_from, seed = group.first(lambda: _begun(config, checkpoints, reporter))
        group.every(lambda: _see_checkpoint(resume_from))
        runtime = _runtime(config, seed, group)
        pace = plans.pace(config, runtime, resume_from)
        prepared = prepare(config, runtime, reporter, pace)
        open_things.callback(prepared.close)
        publisher = results.publisher(config, prepared, runtime, reporter) if group.place.rank == 0 else None
        everybody = Several(reporter, *_opened(publisher, open_things))
        trainer = build_trainer(config, prepared, checkpoints, runtime, everybody, pace)
        made = group.first(lambda: keeping.manifest(config, prepared, runtime, resume_from))
        result = trainer.fit(resume_from)
        group.first(lambda: made.ended(folder, result))
        outcome = group.first(lambda: finish(config, prepared, trainer, result, publisher))
        reporter.report(Finished(str(folder), outcome.steps))
    return outcome


def _opened(publisher: Publisher | None, open_things: ExitStack) -> list[Reporter]:
    """The publisher as one more reader of what happens."""
    if publisher is None:
        return []
    open_things.callback(publisher.close)
    return [publisher]


@contextmanager
def _told(reporter: Reporter) -> Iterator[None]:
    """Whoever follows the run is told about its end too."""
    try:
        yield
    except Stopped as error:
        reporter.report(Paused(str(error)))
        raise
    except SimpleTunerError as error:
        reporter.report(Failed(str(error)))
        raise
    except KeyboardInterrupt:
        reporter.report(Failed("interrupted"))
        raise


def _begun(config: RunConfig, checkpoints: Checkpoints, reporter: Reporter) -> tuple[Path | None, int]:
    """Make the output folder ready; returns the checkpoint to go on from, and the seed of the run."""
    checkpoints.tidy()
    resume_from = checkpoints.chosen(config.run.resume_from_checkpoint, lambda text: reporter.report(Notice(text)))
    for text in resuming.notices(config, resume_from):
        reporter.report(Notice(text))
    for name in checkpoints.set_aside(after=checkpoint.step_of(resume_from)):
        reporter.report(Notice(f"{name} is of a later step than this run starts from; it is {name}.superseded now"))
    # Only now: a run that is refused leaves the folder saying what its weights were made with.
    LocalStore(checkpoints.folder).write(RESOLVED_CONFIG, config.dump().encode())
    return resume_from, plans.seed_of_run(config, resume_from)


def _see_checkpoint(path: Path | None) -> None:
    """Refuse to go on from what only the first machine has."""
    if path is not None and not path.is_dir():
        raise CheckpointError(
            f"'{path}' is not on this machine. Give all machines an output_dir on one shared disk, or copy the "
            f"checkpoint to each of them."
        )


def build_trainer(
    config: RunConfig,
    prepared: Prepared,
    checkpoints: Checkpoints,
    runtime: Runtime,
    reporter: Reporter,
    pace: Pace | None = None,
) -> Trainer:
    """The network, its adapter, the optimizer and everything else the loop needs."""
    order = plans.order(config, prepared.datasets, runtime, pace)
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
    texts = plans.texts(config, runtime)
    base = plans.denoiser(config, runtime)
    assembled = assemble(base, plans.assembly(config, runtime, texts))
    denoiser = assembled.denoiser
    rate = plans.learning_rate(config, schedule, runtime)
    optimizer = optimizers.build(
        config.optimization.optimizer,
        plans.parameter_groups(config, assembled.trained),
        plans.optimizer_settings(config, rate),
    )
    limit = config.optimization.max_grad_norm
    fused = UpdatesInBackward(optimizer, limit=limit) if config.optimization.updates_in_backward else None
    made_with = optimizers.settings_of(optimizer)
    prepared_optimizer = runtime.prepare(denoiser.module, optimizer)
    told: Prompts = prepared.prompts
    if texts is not None:
        texts.start(memory_plans.recompute(config.memory))
        told = texts.over(told)
    updates = Updates(config.optimization, prepared_optimizer, rate, runtime, made_with, fused)
    learning = Learning(
        options=config.objective,
        denoiser=denoiser,
        trained=assembled.trained,
        runtime=runtime,
        shift=partial(plans.noise_shift, config),
        router=assembled.router,
        texts=texts,
    )
    trained = keeping.averaged(config, assembled.trained, runtime)
    parts = (checkpoints, trained, updates)
    saving = keeping.saving(config, prepared, parts, order, schedule, runtime, reporter)
    return Trainer(
        schedule=schedule,
        denoiser=denoiser,
        trained=trained,
        batches=batches,
        learning=learning,
        updates=updates,
        saving=saving,
        validation=judging.validation(
            config,
            prepared,
            told,
            order=order,
            transformer=base.module,
            trained=trained,
            runtime=runtime,
            reporter=reporter,
        ),
        runtime=runtime,
        reporter=reporter,
        pace=order.pace,
        guards=watching.guards(config, reporter),
        gauges=watching.gauges(config, runtime, len(denoiser.blocks)),
        evaluation=judging.evaluation(config, schedule, prepared, told, runtime, reporter),
    )


def _runtime(config: RunConfig, seed: int, group: Group) -> Runtime:
    mixed = config.precision.mixed_precision
    return Runtime.start("bf16" if mixed == "bf16" else "no", seed, group)
