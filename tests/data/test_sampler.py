"""The order of the samples: complete, mixed as asked, and the same whenever and wherever it is asked for."""

from collections import Counter
from collections.abc import Sequence
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletuner.data.dataset import Dataset
from simpletuner.data.pace import Pace
from simpletuner.data.sampler import Draw, Draws, Order, nth_use
from simpletuner.data.timeline import Window
from simpletuner.errors import DataError

from .made import dataset


def epoch(order: Order, number: int = 0) -> list[tuple[int, tuple[Draw, ...]]]:
    found = [order.batch(n) for n in range(order.batches_in(number), order.batches_in(number + 1))]
    assert {batch.epoch for batch in found} <= {number}
    return [(batch.dataset, batch.draws) for batch in found]


Pool = tuple[list[int], int, int]
pools = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 5)),
    min_size=1,
    max_size=3,
)
samplings = st.sampled_from(["auto-weighting", "uniform"])
windows = st.builds(
    lambda epoch, last, step, steps: Window(epoch, last and epoch + last, step, steps and step + steps),
    st.integers(1, 2),
    st.none() | st.integers(1, 3),
    st.sampled_from([1, 1, 4, 9]),
    st.none() | st.integers(1, 9),
)


def made(raw: Sequence[Pool], **options: Window) -> list[Dataset]:
    return [
        dataset(str(i), buckets, repeats=repeats, batch_size=size, **options)
        for i, (buckets, repeats, size) in enumerate(raw)
    ]


@settings(deadline=None)
@given(pools, samplings, st.integers(0, 3))
def test_an_epoch_uses_every_image_repeats_plus_one_times_and_never_mixes_buckets(
    raw: list[Pool], sampling: str, number: int
) -> None:
    datasets = made(raw)
    uses = [Counter[int]() for _ in datasets]
    for index, draws in epoch(Order(datasets, seed=1, sampling=sampling), number):
        assert len({datasets[index].records.bucket_of[draw.record] for draw in draws}) == 1
        assert len(draws) == datasets[index].batch_size
        uses[index].update(draw.record for draw in draws)
    for found, used in zip(datasets, uses, strict=True):
        wanted = len(found.records) * (found.repeats + 1)
        assert all(used[i] >= found.repeats + 1 for i in range(len(found.records)))
        assert wanted <= used.total() < wanted + found.batch_size * len(found.buckets)
        assert max(used.values()) - min(used.values()) <= max(1, found.batch_size)


@settings(deadline=None)
@given(pools, windows, samplings)
def test_samples_are_numbered_without_gaps_over_epochs_and_windows(
    raw: list[Pool], window: Window, sampling: str
) -> None:
    order = Order([*made(raw), dataset("w", [5], window=window)], seed=1, sampling=sampling)
    samples = [draw.sample for number in (0, 1, 2) for _, draws in epoch(order, number) for draw in draws]
    assert samples == list(range(len(samples)))


@settings(deadline=None, max_examples=60)
@given(pools, st.integers(1, 4), st.integers(0, 5), samplings)
def test_the_order_of_all_samples_is_the_same_on_any_number_of_processes(
    raw: list[Pool], per_process: int, first_step: int, sampling: str
) -> None:
    """24 batches make a step here, however many processes share them."""
    datasets = made(raw)
    alone = Order(datasets, seed=5, sampling=sampling, pace=Pace.steady(24))
    steps = range(first_step, first_step + 2)
    unshared = [draws_of(alone.batch(number)) for step in steps for number in range(24 * step, 24 * (step + 1))]
    for processes in (1, 2, 3, 4, 8):
        own = Order(datasets, seed=5, sampling=sampling, pace=Pace.steady(24))
        accumulation = 24 // processes
        shares = [
            [list(Pace.steady(24).share(step, step + 1, rank=rank, processes=processes)) for step in steps]
            for rank in range(processes)
        ]
        assert all(len(share) == accumulation for shares_of_one in shares for share in shares_of_one)
        together = sorted(number for shares_of_one in shares for share in shares_of_one for number in share)
        assert [draws_of(own.batch(number)) for number in together] == unshared
        # What all processes work on at one moment are neighbours in the order.
        moments = list(zip(*(share for shares_of_one in shares for share in shares_of_one[:1]), strict=True))
        assert [number for moment in moments for number in moment] == together[:24]


@settings(deadline=None, max_examples=60)
@given(pools, windows, st.integers(0, 2**31), st.lists(st.integers(0, 90), max_size=4))
def test_no_interruption_changes_what_comes_after_it(
    raw: list[Pool], window: Window, seed: int, interruptions: list[int]
) -> None:
    datasets = [*made(raw), dataset("w", [5], window=window, said=("x", "y", "z"), dropout=0.3)]
    unbroken = Order(datasets, seed=seed)
    length = 100 if unbroken.end is None else min(unbroken.end, 100)
    expected = [draws_of(unbroken.batch(number)) for number in range(length)]
    found: list[object] = []
    for stop in [*sorted(interruptions), length]:
        resumed = Order(datasets, seed=seed)
        found += [draws_of(resumed.batch(number)) for number in range(len(found), min(stop, length))]
    assert found == expected
    backwards = Order(datasets, seed=seed)
    assert [draws_of(backwards.batch(number)) for number in reversed(range(length))] == expected[::-1]


def draws_of(batch: Draws) -> tuple[int, int, tuple[Draw, ...]]:
    return batch.dataset, batch.epoch, batch.draws


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 60), st.integers(1, 4))
def test_exactly_as_many_uses_as_asked_for_are_made_of_matched_images(
    buckets: list[int], repeats: int, uses: int, size: int
) -> None:
    counts = [Order([dataset("a", buckets, repeats=repeats, batch_size=1, uses=uses)], seed=1)]
    assert counts[0].batches_per_epoch == uses
    order = Order([dataset("a", buckets, repeats=repeats, batch_size=size, uses=uses)], seed=1)
    used = Counter(draw.record for _, draws in epoch(order) for draw in draws)
    assert uses <= used.total() <= uses + (size - 1) * len(buckets)
    if uses >= sum(buckets) * (repeats + 1):
        single = Counter(draw.record for _, draws in epoch(counts[0]) for draw in draws)
        assert set(single) == set(range(sum(buckets)))
        assert max(single.values()) - min(single.values()) <= 1


def test_matched_images_are_the_same_ones_in_every_epoch() -> None:
    """As in sd-scripts, where the images for regularisation are chosen once."""
    order = Order([dataset("a", [40], uses=10, batch_size=1)], seed=1)
    chosen = [{draw.record for _, draws in epoch(order, number) for draw in draws} for number in range(3)]
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(chosen[0]) == 10


def test_windows_let_a_data_set_in_and_out_at_the_steps_they_name() -> None:
    datasets = [dataset("a", [20]), dataset("b", [6], window=Window(first_step=4, last_step=6))]
    order = Order(datasets, seed=1, pace=Pace.steady(3))
    steps = {number // 3 + 1 for number in range(60) if order.batch(number).dataset == 1}
    assert steps and steps <= {4, 5, 6}


def test_windows_let_a_data_set_in_and_out_at_the_epochs_they_name() -> None:
    order = Order([dataset("a", [4]), dataset("b", [6], window=Window(first_epoch=2, last_epoch=3))], seed=1)
    assert [{index for index, _ in epoch(order, number)} for number in range(5)] == [{0}, {0, 1}, {0, 1}, {0}, {0}]
    assert [order.epoch_of(order.batches_in(number)) for number in range(5)] == [0, 1, 2, 3, 4]


def test_a_batch_that_no_data_set_is_left_for_is_told() -> None:
    order = Order([dataset("a", [4], window=Window(last_step=3))], seed=1, pace=Pace.steady(2))
    assert order.end == 6
    order.batch(5)
    with pytest.raises(DataError, match=r"no data set is left after step 3: .*Change their end_step"):
        order.batch(6)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.none() | st.integers(1, 9)), min_size=1, max_size=4),
    st.integers(1, 2),
    st.integers(0, 2),
)
def test_data_sets_that_end_early_in_each_epoch_keep_to_that_and_nobody_loses_a_batch(
    raw: list[tuple[int, int | None]], per_step: int, number: int
) -> None:
    datasets = [
        dataset("whole", [30]),
        *(dataset(str(i), [count], batch_size=1, limit=limit) for i, (count, limit) in enumerate(raw)),
    ]
    order = Order(datasets, seed=1, pace=Pace.steady(per_step))
    found = [index for index, _ in epoch(order, number)]
    counts = [15, *(count if limit is None else min(count, limit * per_step) for count, limit in raw)]
    assert [found.count(index) for index in range(len(datasets))] == counts
    limits = sorted(limit * per_step for _, limit in raw if limit is not None)
    crowded = any(
        sum(count for (_, one), count in zip(raw, counts[1:], strict=True) if one and one * per_step <= limit) > limit
        for limit in limits
    )
    for index, (_, limit) in enumerate(raw, start=1):
        if limit is not None and not crowded:
            assert index not in found[limit * per_step :]


def test_the_order_is_the_same_on_every_machine_and_with_every_version() -> None:
    order = Order([dataset("a", [4]), dataset("b", [4])], seed=42)
    drawn = [(batch.dataset, [draw.record for draw in batch.draws]) for batch in map(order.batch, range(4))]
    assert drawn == [(0, [1, 0]), (0, [3, 2]), (1, [0, 3]), (1, [1, 2])]


def test_seeds_and_epochs_give_different_orders() -> None:
    datasets = [dataset("a", [50], batch_size=1)]
    one, two = Order(datasets, seed=1), Order(datasets, seed=2)
    orders = [[draws[0].record for _, draws in epoch(order, number)] for order in (one, two) for number in (0, 1)]
    assert len({tuple(found) for found in orders}) == 4


def test_a_batch_holds_an_image_twice_only_when_its_bucket_is_too_small() -> None:
    order = Order([dataset("a", [8], batch_size=4), dataset("b", [3], batch_size=4)], seed=1)
    for index, draws in epoch(order):
        assert len({draw.record for draw in draws}) == (4 if index == 0 else 3)


def test_auto_weighting_uses_up_all_data_sets_together() -> None:
    order = Order([dataset("large", [900]), dataset("small", [100])], seed=1)
    first_half = [index for index, _ in epoch(order)][: order.batches_per_epoch // 2]
    assert 15 <= first_half.count(1) <= 35


def test_uniform_uses_up_small_data_sets_first() -> None:
    order = Order([dataset("large", [900]), dataset("small", [100])], seed=1, sampling="uniform")
    beginning = [index for index, _ in epoch(order)][:80]
    assert 28 <= beginning.count(1) <= 50


def test_probability_steers_how_often_a_data_set_is_drawn_while_both_last() -> None:
    order = Order([dataset("a", [1000], probability=3), dataset("b", [1000])], seed=1)
    beginning = [index for index, _ in epoch(order)][:400]
    assert 270 <= beginning.count(0) <= 330


def test_each_alternative_caption_is_used_about_equally_often() -> None:
    order = Order([dataset("a", [1], repeats=2999, batch_size=1, said=("x", "y", "z"))], seed=1)
    counts = Counter(draws[0].caption for _, draws in epoch(order))
    assert all(900 < counts[caption] < 1100 for caption in "xyz")


def test_captions_are_dropped_as_often_as_asked() -> None:
    order = Order([dataset("a", [1], repeats=1999, batch_size=1, dropout=0.1)], seed=1)
    assert 150 < sum(draws[0].caption == "" for _, draws in epoch(order)) < 250


def test_dropping_captions_does_not_change_which_images_are_drawn() -> None:
    with_all = Order([dataset("a", [9, 4], said=("x", "y"))], seed=1)
    with_fewer = Order([dataset("a", [9, 4], said=("x", "y"), dropout=0.5)], seed=1)
    for (_, one), (_, other) in zip(epoch(with_all), epoch(with_fewer), strict=True):
        assert [draw.record for draw in one] == [draw.record for draw in other]
        assert all(b.caption in {a.caption, ""} for a, b in zip(one, other, strict=True))


def test_a_new_data_set_does_not_change_the_order_within_the_others() -> None:
    a, b = dataset("a", [30], batch_size=1), dataset("b", [12], batch_size=1)
    alone = [draws[0].record for _, draws in epoch(Order([a], seed=1))]
    together = [draws[0].record for index, draws in epoch(Order([b, a], seed=1)) if index == 1]
    assert together == alone


def test_the_length_of_a_run_changes_nothing_of_its_order() -> None:
    order = Order([dataset("a", [30])], seed=1)
    longer = order.with_length(500)
    assert [draws_of(order.batch(number)) for number in range(30)] == [
        draws_of(longer.batch(number)) for number in range(30)
    ]


def test_uses_are_counted_record_by_record() -> None:
    assert nth_use(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("number", [0, 1_000_000])
def test_any_batch_of_a_large_data_set_is_found_at_once(number: int) -> None:
    order = Order([dataset("a", [60_000, 30_000]), dataset("b", [10_000], repeats=4)], seed=1)
    start = process_time()
    order.batch(number)
    assert process_time() - start < 0.8
