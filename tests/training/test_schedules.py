"""Learning rate schedules do what their names say."""

import math

import pytest
import torch
import transformers
from diffusers.optimization import get_piecewise_constant_schedule

from simpletuner.training.schedules import LR_SCHEDULES, LearningRate, read_rules

PEAK, END, TOTAL = 1e-4, 4e-7, 1000
RULES, LAST = read_rules("1:300,0.5:600,0.1")
FALLING = ["linear", "cosine", "polynomial", "rex", "warmup_stable_decay", "inverse_sqrt"]


def rate(name, warmup=0, *, end=END, **options):
    options = {"decay_steps": 200, "rules": RULES, "last_factor": LAST, **options}
    return LearningRate(name, PEAK, end, warmup, TOTAL, **options)


def rates(name, warmup=0, **options):
    return [rate(name, warmup, **options).at(step) for step in range(TOTAL + 1)]


@pytest.mark.parametrize("name", LR_SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 100])
def test_every_schedule_reaches_its_peak_and_never_leaves_its_range(name, warmup):
    found = rates(name, warmup, cycles=3)
    assert max(found) == pytest.approx(PEAK)
    assert all(0 <= one <= PEAK * (1 + 1e-12) for one in found)


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_warm_up_is_a_straight_line_from_the_first_step(name):
    found = [rate(name, 100).at(step) for step in range(100)]
    assert found == pytest.approx([PEAK * (step + 1) / 100 for step in range(100)])


@pytest.mark.parametrize("name", FALLING)
@pytest.mark.parametrize("warmup", [0, 100])
def test_falling_schedules_fall_all_the_way_without_a_jump(name, warmup):
    found = rates(name, warmup)[warmup:]
    steps = [earlier - later for earlier, later in zip(found, found[1:], strict=False)]
    assert all(step >= 0 for step in steps) and max(steps) < PEAK / 100
    ends = {"linear": 0.0, "inverse_sqrt": found[-1]}
    assert found[-1] == pytest.approx(ends.get(name, END))


def test_cosine_is_half_way_in_the_middle():
    assert rate("cosine").at(TOTAL // 2) == pytest.approx((PEAK + END) / 2)


def test_the_power_bends_the_polynomial():
    assert rate("polynomial", power=2.0).at(500) == pytest.approx(END + (PEAK - END) / 4)


def test_training_beyond_the_last_step_stays_at_the_end():
    assert rate("cosine").at(5 * TOTAL) == pytest.approx(END)


def test_restarts_jump_to_the_peak_as_often_as_there_are_cycles_and_end_at_the_end():
    found = rates("cosine_with_restarts", cycles=4)
    assert [step for step in range(1, TOTAL + 1) if found[step] > 2 * found[step - 1]] == [250, 500, 750]
    assert found[250] == pytest.approx(PEAK) and found[-1] == pytest.approx(END)


def test_no_cycle_begins_with_the_end_of_the_one_before():
    found = rates("cosine_with_restarts", cycles=50)
    assert [found[step] for step in range(0, TOTAL, 20)] == pytest.approx([PEAK] * 50)


def test_a_decay_that_is_longer_than_what_the_warm_up_leaves_begins_behind_the_warm_up():
    found = rates("warmup_stable_decay", 500, decay_steps=900)
    assert found[499:501] == pytest.approx([PEAK, PEAK]) and found[750] == pytest.approx((PEAK + END) / 2)


def test_the_sine_swings_without_jumps_and_falls_as_often_as_there_are_cycles():
    found = rates("sine", cycles=3)
    turns = [step for step in range(1, TOTAL) if (found[step] - found[step - 1]) * (found[step + 1] - found[step]) < 0]
    assert turns == [200, 400, 600, 800] and found[-1] == pytest.approx(END)
    assert [found[step] for step in turns] == pytest.approx([END, PEAK, END, PEAK])
    assert max(abs(one - other) for one, other in zip(found, found[1:], strict=False)) < PEAK / 100


@pytest.mark.parametrize("name", ["cosine_with_restarts", "sine"])
def test_with_one_cycle_they_are_the_cosine(name):
    assert rates(name) == pytest.approx(rates("cosine"))


def test_rex_is_as_it_was_published():
    # Chen et al. 2021, arXiv 2107.04197: (1 - t) / (1/2 + 1/2 (1 - t))
    expected = [PEAK * (1 - t) / (0.5 + 0.5 * (1 - t)) for t in (step / TOTAL for step in range(TOTAL + 1))]
    assert rates("rex", end=0.0) == pytest.approx(expected)


def stepped(make, steps=TOTAL):
    """The rates of a scheduler of another library."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


# These start their warm-up at 0, ours at the first share of the peak; from there on they are the same.
@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("linear", lambda one: transformers.get_linear_schedule_with_warmup(one, 100, TOTAL), {}),
        ("cosine", lambda one: transformers.get_cosine_schedule_with_warmup(one, 100, TOTAL), {"end": 0.0}),
        (
            "cosine",
            lambda one: transformers.get_cosine_with_min_lr_schedule_with_warmup(one, 100, TOTAL, min_lr=END),
            {},
        ),
        (
            "cosine_with_restarts",
            lambda one: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(one, 100, TOTAL, 3),
            {"end": 0.0, "cycles": 3},
        ),
        (
            "polynomial",
            lambda one: transformers.get_polynomial_decay_schedule_with_warmup(one, 100, TOTAL, lr_end=END, power=0.8),
            {"power": 0.8},
        ),
        ("inverse_sqrt", lambda one: transformers.get_inverse_sqrt_schedule(one, 100), {}),
        ("inverse_sqrt", lambda one: transformers.get_inverse_sqrt_schedule(one, 100, timescale=50), {"timescale": 50}),
        (
            "warmup_stable_decay",
            lambda one: transformers.get_wsd_schedule(one, 100, 200, num_training_steps=TOTAL, min_lr_ratio=END / PEAK),
            {},
        ),
    ],
)
def test_after_the_warm_up_they_are_those_that_users_of_transformers_know(name, make, options):
    assert rates(name, 100, **options)[100:TOTAL] == pytest.approx(stepped(make)[100:], rel=1e-9, abs=1e-16)


def test_rules_are_those_that_users_of_diffusers_know():
    rules = "1:300,0.5:600,0.1"
    assert rates("piecewise_constant")[:TOTAL] == stepped(lambda one: get_piecewise_constant_schedule(one, rules))


def test_rules_count_the_steps_of_the_warm_up_too():
    found = rates("piecewise_constant", 100)
    wanted = [PEAK, PEAK, PEAK / 2, PEAK / 2, PEAK / 10]
    assert [found[step] for step in (99, 299, 300, 599, 600)] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1:100,0.1", None),
        ("0.5", None),
        ("1:200,0.5:100,0.1", "steps that do not rise"),
        ("1:ten,0.1", "'1:ten' is not of the form factor:step"),
        ("1,0.1", "'1' is not of the form factor:step"),
        ("a:10,0.1", "'a:10' has no factor"),
        ("1:10,-1", "'-1' has a factor that is not a number of at least 0"),
        ("1:10,", "'' has no factor"),
    ],
)
def test_rules_that_cannot_be_read_are_told(text, wrong):
    if wrong is None:
        assert math.isfinite(read_rules(text)[1])
    else:
        with pytest.raises(ValueError, match=wrong):
            read_rules(text)
