"""Work on many files at once: results in order, few ahead, and what goes wrong is raised where it is due."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletuner.data.lanes import together


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(0, 60))
def test_results_come_in_the_order_of_the_things(lanes: int, count: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.0002 * (number % 3))
        return number * 2

    assert list(together(lanes, work, range(count))) == [number * 2 for number in range(count)]


@pytest.mark.parametrize("lanes", [1, 4])
def test_what_goes_wrong_is_raised_after_the_results_before_it(lanes: int) -> None:
    def work(number: int) -> int:
        if number == 8:
            raise ValueError("the eighth")
        return number

    found: list[int] = []
    with pytest.raises(ValueError, match="the eighth"):
        found.extend(together(lanes, work, range(100)))
    assert found[:8] == list(range(8))[: len(found)]
    assert len(found) >= 8 - 4  # results come in groups


def test_only_a_few_things_are_ahead_of_the_result_that_is_asked_for() -> None:
    done: list[int] = []
    results = together(2, lambda number: done.append(number), range(1000))
    next(results)
    time.sleep(0.05)
    assert len(done) < 50
    results.close()


def test_as_many_things_are_worked_on_at_once_as_there_are_lanes() -> None:
    barrier = threading.Barrier(4, timeout=60)
    assert len(list(together(4, lambda number: barrier.wait(), range(16)))) == 16


def test_no_thread_is_left_when_nobody_asks_any_more() -> None:
    before = threading.active_count()
    results = together(4, lambda number: number, range(1000))
    next(results)
    results.close()
    assert threading.active_count() == before
