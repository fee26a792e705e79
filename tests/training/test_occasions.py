"""Something is done after the steps that were named, at the ends of epochs, and after so many minutes."""

import house
import pytest

from simpletuner import keeping, plans
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.training.occasions import Occasions, Timer
from simpletuner.training.runtime import Runtime


def days(occasions, last=20):
    return [step for step in range(1, last + 1) if occasions.falls_on(step)]


def test_every_so_many_steps():
    assert days(Occasions(steps=6)) == [6, 12, 18]
    assert days(Occasions()) == []


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, [4, 7, 11, 14, 18]), (2, [7, 14]), (3, [11]), (6, [])],
)
def test_at_the_end_of_every_so_many_epochs(epochs, expected):
    occasions = Occasions(epochs=epochs, epochs_over=lambda step: int(step / 3.5))
    assert days(occasions) == expected


def test_steps_and_epochs_together_are_both():
    assert days(Occasions(steps=9, epochs=1, epochs_over=lambda step: step // 5)) == [5, 9, 10, 15, 18, 20]


def test_several_epochs_that_end_in_one_step_are_one_occasion():
    assert days(Occasions(epochs=2, epochs_over=lambda step: 3 * step), last=4) == [1, 2, 3, 4]


def test_a_timer_is_over_after_its_minutes_and_begins_anew():
    now = [100.0]
    timer = Timer(minutes=2, clock=lambda: now[0])
    now[0] += 119
    assert not timer.is_over()
    now[0] += 1
    assert timer.is_over()
    timer.restart()
    assert not timer.is_over()
    assert not Timer(minutes=0, clock=lambda: 1e9).is_over()


def test_an_epoch_is_over_after_the_step_that_uses_its_last_image(tmp_path, model, pictures):
    # 10 images, batches of 2, 2 batches a step: 5 batches an epoch, so that epochs end in the middle of steps.
    path = house.write_run(
        tmp_path, [house.data_set("one", pictures)], gradient_accumulation_steps=2, max_train_steps=10
    )
    config, runtime = house.resolved(path, model), Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    order = plans.order(config, prepared.datasets, runtime)
    prepared.close()
    over = keeping.epochs_over(order)
    assert [over(step) for step in range(11)] == [4 * step // 10 for step in range(11)]
    assert days(Occasions(epochs=1, epochs_over=over), last=10) == [3, 5, 8, 10]
