"""The loop of a run with all of its parts: the network, what is trained, how, on what, and who watches."""

from __future__ import annotations

from functools import partial

from simpletuner import judging, keeping, plans, watching
from simpletuner.config import RunConfig
from simpletuner.data.pace import Pace
from simpletuner.data.sampler import Order
from simpletuner.models import memory_plans
from simpletuner.models.assemble import Assembled, assemble
from simpletuner.preparation import Prepared
from simpletuner.progress import Reporter
from simpletuner.training import optimizers
from simpletuner.training.batches import Batches, Prompts
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.fused_backward import UpdatesInBackward, by_weight
from simpletuner.training.learning import Learning
from simpletuner.training.runtime import Runtime
from simpletuner.training.schedule import Schedule
from simpletuner.training.texts import Texts
from simpletuner.training.trainer import Trainer
from simpletuner.training.updates import Updates


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
    texts = plans.texts(config, runtime)
    base = plans.denoiser(config, runtime)
    network = assemble(base, plans.assembly(config, runtime, texts))
    updates = _updates(config, network, schedule, runtime)
    prompts = _prompts(config, prepared, texts)
    trained = keeping.averaged(config, network.trained, runtime)
    parts = (checkpoints, trained, updates)
    return Trainer(
        schedule=schedule,
        denoiser=network.denoiser,
        trained=trained,
        batches=_batches(config, prepared, order, runtime),
        learning=_learning(config, network, texts, runtime),
        updates=updates,
        saving=keeping.saving(config, prepared, parts, order, schedule, runtime, reporter),
        validation=judging.validation(
            config,
            prepared,
            prompts,
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
        gauges=watching.gauges(config, runtime, len(network.denoiser.blocks)),
        evaluation=judging.evaluation(config, schedule, prepared, prompts, runtime, reporter),
    )


def _batches(config: RunConfig, prepared: Prepared, order: Order, runtime: Runtime) -> Batches:
    return Batches(
        prepared.datasets,
        order,
        prepared.prompts,
        prepared.latents,
        runtime.seed,
        references=config.data_defaults.conditioning_multidataset_sampling,
    )


def _updates(config: RunConfig, network: Assembled, schedule: Schedule, runtime: Runtime) -> Updates:
    """What changes the weights; the network is on its device afterwards."""
    options, rate = config.optimization, plans.learning_rate(config, schedule, runtime)
    groups = plans.parameter_groups(config, network.trained)
    groups = by_weight(groups) if options.updates_in_backward else groups
    optimizer = optimizers.build(options.optimizer, groups, plans.optimizer_settings(config, rate))
    fused = UpdatesInBackward(optimizer, limit=options.gradient_limit) if options.updates_in_backward else None
    made_with = optimizers.settings_of(optimizer)
    return Updates(options, runtime.prepare(network.denoiser.module, optimizer), rate, runtime, made_with, fused)


def _prompts(config: RunConfig, prepared: Prepared, texts: Texts | None) -> Prompts:
    """What prompts mean to the model: what was encoded before, or what trained encoders make of them now."""
    if texts is None:
        return prepared.prompts
    texts.start(memory_plans.recompute(config.memory))
    return texts.over(prepared.prompts)


def _learning(config: RunConfig, network: Assembled, texts: Texts | None, runtime: Runtime) -> Learning:
    return Learning(
        options=config.objective,
        denoiser=network.denoiser,
        trained=network.trained,
        runtime=runtime,
        shift=partial(plans.noise_shift, config),
        router=network.router,
        texts=texts,
    )
