"""Epochs and windows, found by division: the same as counting batch by batch, however slow that would be."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletuner.data.pace import Pace
from simpletuner.data.timeline import Floats, Member, Place, Timeline, Window


def arrivals(number: int, batches: int) -> Floats:
    def times(epoch: int) -> Floats:
        return np.cumsum(np.random.default_rng((number, epoch)).exponential(size=batches) / batches)

    return times


def member(number: int, batches: int, batch_size: int, window: Window, limit: int | None) -> Member:
    return Member(batches, batch_size, window, arrivals(number, batches), limit)


def counted(members: list[Member], per_step: int) -> Iterator[tuple[int, int, int, int]]:
    """Epoch, number in the epoch, data set, and sample of each batch, by plain counting."""
    batch = sample = epoch = 0
    while True:
        taking_part = [
            one
            for one, member in enumerate(members)
            if member.window.first_epoch <= epoch + 1 <= (member.window.last_epoch or 10**9)
        ]
        used, joined, clock, first = dict.fromkeys(taking_part, 0), dict[int, float](), 0.0, batch
        while True:
            step = batch // per_step + 1
            present = [
                one
                for one in taking_part
                if members[one].window.first_step <= step <= (members[one].window.last_step or 10**9)
                and batch - first < (10**9 if members[one].limit is None else members[one].limit)
            ]
            left = [one for one in present if used[one] < members[one].batches]
            if batch > first and not any(one in joined for one in left):
                break
            for one in present:
                joined.setdefault(one, clock)
            if not left:
                break
            clock, one = min((joined[one] + members[one].arrivals(epoch)[used[one]], one) for one in left)
            yield epoch, batch - first, one, sample
            used[one] += 1
            sample += members[one].batch_size
            batch += 1
        if batch == first:
            return
        epoch += 1


def found(timeline: Timeline, members: list[Member], batch: int) -> tuple[int, int, int, int]:
    place = timeline.place(batch)
    owners = owners_of(place, members)
    sizes = [members[one].batch_size for one in owners[: place.number].tolist()]
    return place.epoch, place.number, int(owners[place.number]), place.first_sample + sum(sizes)


def owners_of(place: Place, members: list[Member]) -> np.ndarray:
    if place.stretch.owners is not None:
        return place.stretch.owners
    times = [(time, one) for one in place.stretch.members for time in members[one].arrivals(place.epoch)]
    return np.array([one for _, one in sorted(times)], dtype=np.int64)


ends = st.none() | st.integers(1, 6)
windows = st.builds(
    lambda epoch, epochs, step, steps: Window(
        epoch, None if epochs is None else epoch + epochs, step, None if steps is None else step + steps
    ),
    st.sampled_from([1, 1, 1, 2, 3]),
    ends,
    st.sampled_from([1, 1, 1, 2, 5, 9, 12]),
    st.none() | st.integers(0, 12),
)
members = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3), windows), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(members, st.integers(1, 3))
def test_every_batch_is_where_plain_counting_finds_it(raw: list[tuple[int, int, Window]], per_step: int) -> None:
    given_members = [member(number, *one, None) for number, one in enumerate(raw)]
    timeline = Timeline(given_members, Pace.steady(per_step))
    expected = list(islice(counted(given_members, per_step), 120))
    if len(expected) < 120:
        assert timeline.end == len(expected)
    else:
        assert timeline.end is None or timeline.end >= 120
    assert [found(timeline, given_members, batch) for batch in range(len(expected))] == expected


@settings(max_examples=100, deadline=None)
@given(members, st.integers(1, 3), st.integers(1, 5))
def test_a_limit_within_an_epoch_holds_in_epochs_that_are_laid_out_by_themselves(
    raw: list[tuple[int, int, Window]], per_step: int, limit: int
) -> None:
    given_members = [member(number, *one, limit if number == 0 else None) for number, one in enumerate(raw)]
    timeline = Timeline(given_members, Pace.steady(per_step))
    for number in range(60 if timeline.end is None else min(timeline.end, 60)):
        place = timeline.place(number)
        if place.stretch.owners is not None:
            assert not (place.stretch.owners[limit:] == 0).any()


@settings(max_examples=100, deadline=None)
@given(members, st.integers(1, 3))
def test_epochs_have_as_many_batches_as_are_counted(raw: list[tuple[int, int, Window]], per_step: int) -> None:
    given_members = [member(number, *one, None) for number, one in enumerate(raw)]
    timeline = Timeline(given_members, Pace.steady(per_step))
    epochs = [epoch for epoch, *_ in islice(counted(given_members, per_step), 120)]
    for number in range(1, epochs[-1] if epochs else 1):
        assert timeline.batches_in(number) == sum(epoch < number for epoch in epochs)


def test_part_of_an_epoch_counts_by_its_share() -> None:
    timeline = Timeline(
        [member(0, 10, 1, Window(), None), member(1, 30, 1, Window(first_epoch=3), None)], Pace.steady(1)
    )
    shares = (0, 0.5, 1, 1.01, 2, 2.5, 3)
    assert [timeline.batches_in(epochs) for epochs in shares] == [0, 5, 10, 11, 20, 40, 60]


def test_a_data_set_that_starts_when_an_epoch_ends_starts_with_an_epoch_of_its_own() -> None:
    timeline = Timeline([member(0, 4, 1, Window(), None), member(1, 4, 1, Window(first_step=5), None)], Pace.steady(1))
    assert [timeline.place(batch).epoch for batch in range(14)] == [0] * 4 + [1] * 8 + [2] * 2


def test_a_data_set_that_starts_within_an_epoch_makes_it_longer() -> None:
    timeline = Timeline([member(0, 4, 1, Window(), None), member(1, 4, 1, Window(first_step=3), None)], Pace.steady(1))
    assert [timeline.place(batch).epoch for batch in range(18)] == [0] * 8 + [1] * 8 + [2] * 2
    assert timeline.batches_in(1) == 8


def test_a_run_ends_when_nothing_is_left_to_train_on() -> None:
    by_step = Timeline([member(0, 4, 1, Window(last_step=3), None)], Pace.steady(2))
    by_epoch = Timeline([member(0, 4, 1, Window(last_epoch=2), None)], Pace.steady(2))
    gap = Timeline(
        [member(0, 4, 1, Window(last_epoch=1), None), member(1, 4, 1, Window(first_epoch=3), None)], Pace.steady(1)
    )
    endless = Timeline([member(0, 4, 1, Window(first_epoch=1), None)], Pace.steady(2))
    assert (by_step.end, by_epoch.end, gap.end, endless.end) == (6, 8, 4, None)


def test_a_far_batch_is_found_without_counting() -> None:
    timeline = Timeline(
        [member(0, 7, 2, Window(first_step=1000), None), member(1, 3, 1, Window(), None)], Pace.steady(1)
    )
    place = timeline.place(10**15)
    assert place.stretch.batches == 10
    assert place.number == (10**15 - place.stretch.first_batch) % 10
