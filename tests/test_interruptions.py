"""Whatever a run is made of, and wherever it is interrupted: its parts are together the run that was not."""

from __future__ import annotations

import os
import shutil
import signal
from itertools import product
from pathlib import Path

import house
import pytest
from combinations import AVERAGES, KINDS, OBJECTIVES, OPTIMIZERS, Row, covering, fits, written
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as some
from safetensors.torch import load_file
from torch import Tensor, equal

from simpletuner.errors import Stopped
from simpletuner.progress import Event, ImagesSaved, Recorded, StepDone
from simpletuner.run import train

STEPS = 6
SHORT = bool(os.environ.get("CI"))
ROWS = covering(1 if SHORT else 2)
POINTS = 1 if SHORT else 2
"""In how many ways each run is interrupted."""


class Crash(BaseException):
    """The end of a process that has no time to do anything."""


class Interrupting(Recorded):
    """Remembers, and interrupts the run when a step is done."""

    def __init__(self, step: int, *, crash: bool) -> None:
        super().__init__()
        self._step, self._crash = step, crash

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, StepDone) and event.step == self._step:
            if self._crash:
                raise Crash
            signal.raise_signal(signal.SIGTERM)


def steps(recorded: Recorded) -> dict[int, tuple[object, ...]]:
    """Everything in numbers that a run says of its steps."""
    done = [one for one in recorded.events if isinstance(one, StepDone)]
    return {one.step: (one.epoch, one.loss, one.gradient_norm, one.learning_rate, house.metrics(one)) for one in done}


def tensors(folder: Path) -> dict[str, dict[str, Tensor]]:
    """All that the last checkpoint and the result are made of."""
    files = [path for path in folder.rglob("*.safetensors") if path.relative_to(folder).parts[0] in _LAST]
    return {path.relative_to(folder).as_posix(): load_file(path) for path in [*files, *folder.glob("*.safetensors")]}


_LAST = (f"checkpoint-{STEPS}", "ema", "transformer", "controlnet")


def differences(found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> list[str]:
    """The tensors that are not the same bit for bit."""
    assert found.keys() == expected.keys()
    assert all(found[file].keys() == expected[file].keys() for file in expected)
    names = [(file, name) for file, held in expected.items() for name in held]
    return [f"{file}: {name}" for file, name in names if not equal(found[file][name], expected[file][name])]


def points(number: int) -> some.SearchStrategy[list[tuple[int, bool]]]:
    """After which steps a run is interrupted, and whether by a crash; the simplest ones are others for each run."""
    step = some.integers(0, STEPS - 2).map(lambda one: 1 + (one + number) % (STEPS - 1))
    crash = some.integers(0, 1).map(lambda one: (one + number) % 2 == 1)
    return some.lists(some.tuples(step, crash), min_size=1, max_size=3, unique_by=lambda one: one[0]).map(sorted)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(len(ROWS)), ids=[", ".join(row.values()) for row in ROWS])
def test_the_parts_of_an_interrupted_run_are_together_the_whole_one(tmp_path: Path, model: Path, number: int) -> None:
    path = written(tmp_path, ROWS[number])
    words = (f"max_train_steps={STEPS}", "checkpoint_step_interval=2", "checkpoints_total_limit=2")
    whole, heard = house.run(path, model, *words)
    expected, said = tensors(whole.folder), steps(heard)
    assert len(said) == STEPS

    @seed(number)
    @settings(max_examples=POINTS, phases=[Phase.generate], deadline=None, database=None, suppress_health_check=_ALL)
    @given(points(number))
    def together(interruptions: list[tuple[int, bool]]) -> None:
        output = tmp_path / "other"
        shutil.rmtree(output, ignore_errors=True)
        for step, crash in interruptions:
            first = Interrupting(step, crash=crash)
            with pytest.raises((Crash, Stopped)):
                train(house.resolved(path, model, *words, f"output_dir={output}"), first)
            assert steps(first).items() <= said.items()
        last, after = house.run(path, model, *words, f"output_dir={output}")
        assert steps(after).items() <= said.items() and STEPS in steps(after)
        assert differences(tensors(last.folder), expected) == []

    together()


_ALL = list(HealthCheck)


def test_pictures_that_an_interruption_has_prevented_are_drawn_when_the_run_goes_on(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    """A signal after step 4 is heard before its pictures are drawn, and after the last step before the last ones."""
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **DRAWING)
    whole, _ = house.run(path, model)
    other = tmp_path / "other"
    for step in (4, STEPS):
        with pytest.raises(Stopped):
            train(house.resolved(path, model, f"output_dir={other}"), Interrupting(step, crash=False))
        assert not (other / "validation_images" / f"step_{step}_sheet.png").exists()
    last, after = house.run(path, model, f"output_dir={other}")
    assert [one.step for one in after.events if isinstance(one, ImagesSaved)] == [STEPS]
    assert drawn_by(last.folder) == drawn_by(whole.folder)
    _, again = house.run(path, model, f"output_dir={other}")
    assert not [one for one in again.events if isinstance(one, ImagesSaved)]


def drawn_by(folder: Path) -> dict[str, bytes]:
    """The pictures that a run has made, but for the sheets, which are called as it is."""
    found = folder.joinpath("validation_images").glob("*.png")
    return {path.name: path.read_bytes() for path in found if not path.name.endswith("_sheet.png")}


DRAWING = {
    "validation_disable": False,
    "validation_prompt": "a red circle",
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 1,
    "validation_step_interval": 4,
}


def test_every_two_things_that_fit_come_together() -> None:
    """The rows of the long form hold each pair of values, and only what fits."""
    rows: list[Row] = covering(2)
    assert all(fits(row) for row in rows)
    found = {(row["kind"], row["optimizer"]) for row in rows}
    assert found == set(product(KINDS, OPTIMIZERS))
    held = {(row["objective"], row["average"]) for row in rows}
    assert held == set(product(OBJECTIVES, AVERAGES))
