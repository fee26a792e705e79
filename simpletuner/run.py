"""One run from a config to a published adapter: read top to bottom, this file is what the program does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from simpletuner import keeping, levers, plans, preflight, results, resuming
from simpletuner.building import build_trainer
from simpletuner.config import RunConfig
from simpletuner.errors import CheckpointError, SimpleTunerError, Stopped
from simpletuner.followers import followers
from simpletuner.preparation import prepare
from simpletuner.progress import Failed, Finished, Notice, Paused, Reporter, RunStarted, Several
from simpletuner.results import Outcome, finish
from simpletuner.storage.local import LocalStore
from simpletuner.training import checkpoint, update_plans
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.group import Group, joined
from simpletuner.training.place import Place
from simpletuner.training.publishing.publisher import Publisher
from simpletuner.training.runtime import Runtime, fits_memory
from simpletuner.training.saving import RESOLVED_CONFIG


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
        group.first(keeping.disk(config, reporter).begin)
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


def _runtime(config: RunConfig, seed: int, group: Group) -> Runtime:
    mixed = config.precision.mixed_precision
    return Runtime.start("bf16" if mixed == "bf16" else "no", seed, group)
