"""Steps and batches: the same as counting, however often a run goes on with another number of processes."""

from __future__ import annotations

import json
from itertools import chain, count, islice

from hypothesis import given, settings
from hypothesis import strategies as st

from simpletuner.data.pace import Pace
from simpletuner.data.sampler import Draw, Order
from simpletuner.data.timeline import Window

from .made import dataset

changes = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=4)


def resumed(first: int, later: list[tuple[int, int]]) -> tuple[Pace, list[int]]:
    """A pace, and how many batches each of its first steps takes, written down one by one."""
    pace, each = Pace.steady(first), [first] * 60
    for step, batches in later:
        pace = pace.changed(step, batches)
        each[step:] = [batches] * (60 - step)
    return pace, each


@given(st.integers(1, 6), changes)
def test_batches_and_steps_are_where_counting_finds_them(first: int, later: list[tuple[int, int]]) -> None:
    pace, each = resumed(first, later)
    assert [pace.batch_of(step) for step in range(60)] == [sum(each[:step]) for step in range(60)]
    owners = [step for step, batches in enumerate(each) for _ in range(batches)]
    assert [pace.step_of(batch) for batch in range(len(owners))] == owners
    assert pace.now == each[-1]


@given(st.integers(1, 6), changes, st.integers(0, 60))
def test_as_many_steps_are_made_as_it_takes_to_use_all_batches(
    first: int, later: list[tuple[int, int]], batches: int
) -> None:
    pace, each = resumed(first, later)
    enough = next(steps for steps in count() if sum(each[:steps]) >= batches)
    assert pace.steps_for(batches) == enough


@given(st.integers(1, 6), changes)
def test_a_pace_comes_back_from_a_file_as_it_was(first: int, later: list[tuple[int, int]]) -> None:
    pace, _ = resumed(first, later)
    assert Pace.read(json.loads(json.dumps(pace.stretches))) == pace


@given(st.integers(1, 4), st.integers(1, 4), changes, st.integers(0, 9), st.integers(0, 9))
def test_processes_share_the_batches_of_steps_evenly_and_without_gaps(
    processes: int, accumulation: int, later: list[tuple[int, int]], first: int, steps: int
) -> None:
    pace = resumed(1, later)[0].changed(first, processes * accumulation)
    shares = [pace.share(first, first + steps, rank=rank, processes=processes) for rank in range(processes)]
    assert {len(share) for share in shares} == {steps * accumulation}
    together = sorted(chain.from_iterable(shares))
    assert together == list(range(pace.batch_of(first), pace.batch_of(first + steps)))
    # What is worked on at one moment are neighbours.
    assert [number for moment in zip(*shares, strict=True) for number in moment] == together


def drawn(order: Order, batches: int) -> list[tuple[int, int, tuple[Draw, ...]]]:
    found = map(order.batch, range(batches))
    return [(batch.dataset, batch.epoch, batch.draws) for batch in found]


@settings(deadline=None, max_examples=60)
@given(changes, st.integers(0, 2**31))
def test_other_processes_never_change_the_order_of_the_samples(later: list[tuple[int, int]], seed: int) -> None:
    datasets = [dataset("a", [7, 3], repeats=1), dataset("b", [5], window=Window(first_epoch=2, last_epoch=3))]
    steady, changed = (Order(datasets, seed=seed, pace=pace) for pace in (Pace.steady(1), resumed(1, later)[0]))
    assert drawn(changed, 80) == drawn(steady, 80)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([2, 3, 6]), st.integers(1, 4), st.integers(0, 2**31))
def test_batches_in_parts_give_the_samples_in_the_order_of_whole_ones(parts: int, each: int, seed: int) -> None:
    window = Window(first_epoch=2, last_epoch=3, first_step=3)
    datasets = [dataset("a", [7, 3], batch_size=6), dataset("b", [5], batch_size=6, window=window)]
    whole = Order(datasets, seed=seed, pace=Pace.steady(each))
    parted = Pace.steady(each).parted(parts)
    assert parted is not None and parted.stretches == ((0, each * parts),)
    found = [draw for batch in drawn(Order(datasets, seed=seed, pace=parted), 20 * parts) for draw in batch[2]]
    assert found == [draw for batch in drawn(whole, 20) for draw in batch[2]]


def test_parts_are_put_together_again_where_steps_took_whole_batches() -> None:
    pace = Pace.steady(1).parted(4)
    assert pace == Pace(((0, 4),), 4)
    assert pace.changed(2, 8).parted(1) == Pace(((0, 1), (2, 2)))
    assert pace.changed(2, 3).parted(1) is None
    assert pace.changed(2, 2).parted(2) == Pace(((0, 2), (2, 1)), 2)
    assert [pace.changed(2, 3).whole_before(step) for step in range(6)] == [0, 1, 2, 3, 4, 5]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_what_was_drawn_before_other_processes_took_over_stays_though_data_sets_start_at_steps(
    start: int, steps: int, before: int, after: int, resumed_at: int
) -> None:
    """Without this, a run would be asked to go on from a place in an order that it never had."""
    datasets = [dataset("a", [7, 3]), dataset("b", [5], window=Window(first_step=start, last_step=start + steps))]
    first = Order(datasets, seed=1, pace=Pace.steady(before))
    second = Order(datasets, seed=1, pace=Pace.steady(before).changed(resumed_at, after))
    done = Pace.steady(before).batch_of(resumed_at)
    assert drawn(second, done) == drawn(first, done)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_data_sets_keep_to_the_steps_they_name_on_any_processes(
    start: int, steps: int, before: int, after: int, resumed_at: int
) -> None:
    pace = Pace.steady(before).changed(resumed_at, after)
    window = Window(first_step=start, last_step=start + steps)
    order = Order([dataset("a", [40]), dataset("b", [500], window=window)], seed=1, pace=pace)
    used = {pace.step_of(number) + 1 for number in islice(count(), 200) if order.batch(number).dataset == 1}
    assert used and min(used) >= start and max(used) <= start + steps
