"""Which blocks are on the device when: the schedule of sd-scripts, followed literally, and its limits."""

import pytest

from simpletuner.models.offload.conveyor import Conveyor, Station
from simpletuner.models.offload.schedule import neighbours, window


def literally(count, swapped):
    """The movements as sd-scripts makes them: what is there when each block computes, forward and then backward."""
    here = set(range(count - swapped))
    for block in range(count):
        yield block, False, set(here)
        if block < swapped:
            here = here - {block} | {count - swapped + block}
    for block in reversed(range(count)):
        yield block, True, set(here)
        done = count - block - 1
        if 0 < done <= swapped:
            here = here - {count - done} | {swapped - done}


@pytest.mark.parametrize(("count", "swapped"), [(19, 0), (19, 9), (19, 17), (38, 20), (38, 36), (5, 3)])
def test_the_window_moves_as_sd_scripts_swaps(count, swapped):
    wanted = window(count, swapped)
    for block, backward, here in literally(count, swapped):
        assert wanted(block, backward) == here


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("swapped", range(0, 8))
def test_a_block_that_computes_is_there_and_no_more_are_than_fit(swapped, backward):
    for block in range(8):
        here = window(8, swapped)(block, backward)
        assert block in here and len(here) == 8 - swapped and here <= set(range(8))


@pytest.mark.parametrize(("count", "swapped"), [(19, 5), (19, 12), (38, 20), (38, 3)])
def test_the_blocks_in_the_middle_never_leave(count, swapped):
    wanted = window(count, swapped)
    everywhere = [wanted(block, backward) for block in range(count) for backward in (False, True)]
    assert frozenset.intersection(*everywhere) == frozenset(range(swapped, count - swapped))


def test_what_comes_next_is_learned_from_what_came_next():
    wanted = neighbours(ahead=True)
    first = [wanted(block, False) for block in (0, 2, 1)]
    again = [wanted(block, False) for block in (0, 2, 1)]
    assert first == [{0}, {2}, {1}]
    assert again == [{0, 2}, {2, 1}, {1, 0}]


def test_a_piece_of_several_modules_does_not_forget_what_comes_next():
    wanted = neighbours(ahead=True)
    for block in (0, 0, 1, 1):
        wanted(block, False)
    assert [wanted(block, False) for block in (0, 0, 1, 1)] == [{0, 1}, {0, 1}, {0, 1}, {0, 1}]


class Notes:
    """A carrier that writes down what it is asked for."""

    def __init__(self):
        self.brought, self.taken = [], []
        self.bring, self.take_away = self.brought.append, self.taken.append

    def wait(self, parcel):
        """All is there at once."""


@pytest.mark.parametrize(("backward", "order"), [(False, "cabd"), (True, "cdba")])
def test_what_computes_is_brought_first_and_then_what_computes_sooner(backward, order):
    notes = Notes()
    stations = [Station((), parcel) for parcel in "abcd"]
    conveyor = Conveyor(stations, lambda number, backward: frozenset(range(4)), notes)
    conveyor.need(2, backward=backward)
    assert "".join(notes.brought) == order and not notes.taken


def test_without_looking_ahead_only_what_computes_is_there():
    wanted = neighbours(ahead=False)
    assert [wanted(block, True) for block in (2, 1, 0, 2, 1)] == [{2}, {1}, {0}, {2}, {1}]
