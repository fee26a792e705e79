"""Learning rate schedules do what their names say."""

import pytest

from simpletuner.training.schedules import LR_SCHEDULES, LearningRate

PEAK, END, TOTAL = 1e-4, 4e-7, 1000


def rate(name, warmup=0, power=1.0):
    return LearningRate(name, PEAK, END, warmup, TOTAL, power)


@pytest.mark.parametrize("name", LR_SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 100])
def test_every_schedule_reaches_its_peak_and_never_leaves_its_range(name, warmup):
    rates = [rate(name, warmup).at(step) for step in range(TOTAL + 1)]
    assert max(rates) == pytest.approx(PEAK)
    assert all(0 <= one <= PEAK * (1 + 1e-12) for one in rates)


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_warm_up_is_a_straight_line_from_the_first_step(name):
    rates = [rate(name, 100).at(step) for step in range(100)]
    assert rates == pytest.approx([PEAK * (step + 1) / 100 for step in range(100)])


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial"])
@pytest.mark.parametrize("warmup", [0, 100])
def test_falling_schedules_fall_all_the_way_without_a_jump(name, warmup):
    rates = [rate(name, warmup).at(step) for step in range(warmup, TOTAL + 1)]
    assert all(later <= earlier for earlier, later in zip(rates, rates[1:], strict=False))
    assert rates[-1] == pytest.approx(0.0 if name == "linear" else END)
    assert max(earlier - later for earlier, later in zip(rates, rates[1:], strict=False)) < PEAK / 300


def test_cosine_is_half_way_in_the_middle():
    assert rate("cosine").at(TOTAL // 2) == pytest.approx((PEAK + END) / 2)


def test_the_power_bends_the_polynomial():
    assert rate("polynomial", power=2.0).at(500) == pytest.approx(END + (PEAK - END) / 4)


def test_training_beyond_the_last_step_stays_at_the_end():
    assert rate("cosine").at(5 * TOTAL) == pytest.approx(END)
