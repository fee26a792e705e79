"""The order of the samples: complete, mixed as asked, and the same whenever and wherever it is asked for."""

from collections import Counter
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.data.dataset import Dataset
from simpletuner.data.items import Placement, Record, Size
from simpletuner.data.manifest import Manifest
from simpletuner.data.sampler import Draw, Order
from simpletuner.data.sources.local import Local, LocalFolder


def dataset(
    id: str,
    buckets: list[int],
    *,
    repeats: int = 0,
    probability: float = 1.0,
    batch_size: int = 2,
    captions: tuple[str, ...] = ("caption",),
) -> Dataset:
    """A data set with so many images in each of its buckets."""
    records = [
        Record(f"{bucket}/{i}", "", "", size, Placement(size, (0, 0), size), captions)
        for bucket, count in enumerate(buckets)
        for size in [Size(64 * (bucket + 1), 64)]
        for i in range(count)
    ]
    return Dataset(
        id, LocalFolder(Path()), records, repeats, probability, batch_size, False,
        Local(id=id, instance_data_dir=Path()), Manifest(Path(), ()),
    )  # fmt: skip


def epoch(order: Order, number: int = 0) -> list[tuple[int, tuple[Draw, ...]]]:
    first = number * order.batches_per_epoch
    found = [order.batch(n) for n in range(first, first + order.batches_per_epoch)]
    assert {batch.epoch for batch in found} == {number}
    return [(batch.dataset, batch.draws) for batch in found]


pools = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 5)),
    min_size=1,
    max_size=3,
)


@given(pools, st.sampled_from(["auto-weighting", "uniform"]), st.integers(0, 3))
def test_an_epoch_uses_every_image_repeats_plus_one_times_and_never_mixes_buckets(
    raw: list[tuple[list[int], int, int]], sampling: str, number: int
) -> None:
    datasets = [
        dataset(str(i), buckets, repeats=repeats, batch_size=size) for i, (buckets, repeats, size) in enumerate(raw)
    ]
    uses = [Counter[int]() for _ in datasets]
    for index, draws in epoch(Order(datasets, seed=1, sampling=sampling), number):
        records = [datasets[index].records[draw.record] for draw in draws]
        assert len({record.placement.bucket for record in records}) == 1
        assert len(records) == datasets[index].batch_size
        uses[index].update(draw.record for draw in draws)
    for found, used in zip(datasets, uses, strict=True):
        wanted = len(found.records) * (found.repeats + 1)
        assert all(used[i] >= found.repeats + 1 for i in range(len(found.records)))
        assert wanted <= used.total() < wanted + found.batch_size * len(found.buckets)


@given(pools)
def test_samples_are_numbered_without_gaps_over_epochs(raw: list[tuple[list[int], int, int]]) -> None:
    datasets = [dataset(str(i), buckets, repeats=r, batch_size=size) for i, (buckets, r, size) in enumerate(raw)]
    order = Order(datasets, seed=1)
    samples = [draw.sample for number in (0, 1) for _, draws in epoch(order, number) for draw in draws]
    assert samples == list(range(2 * order.samples_per_epoch))


def test_resuming_draws_what_an_unbroken_run_would_have_drawn() -> None:
    datasets = [dataset("a", [7, 5], captions=("x", "y", "z")), dataset("b", [9], repeats=2)]
    unbroken = Order(datasets, seed=3, caption_dropout=0.3)
    batches = [unbroken.batch(n) for n in range(100)]
    resumed = Order(datasets, seed=3, caption_dropout=0.3)
    assert [resumed.batch(n) for n in reversed(range(40, 100))] == batches[:39:-1]


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
    order = Order([dataset("a", [1], repeats=2999, batch_size=1, captions=("x", "y", "z"))], seed=1)
    counts = Counter(draws[0].caption for _, draws in epoch(order))
    assert all(900 < counts[caption] < 1100 for caption in "xyz")


def test_captions_are_dropped_as_often_as_asked() -> None:
    order = Order([dataset("a", [1], repeats=1999, batch_size=1)], seed=1, caption_dropout=0.1)
    assert 150 < sum(draws[0].caption == "" for _, draws in epoch(order)) < 250


def test_dropping_captions_does_not_change_which_images_are_drawn() -> None:
    datasets = [dataset("a", [9, 4], captions=("x", "y"))]
    with_all, with_fewer = Order(datasets, seed=1), Order(datasets, seed=1, caption_dropout=0.5)
    for (_, one), (_, other) in zip(epoch(with_all), epoch(with_fewer), strict=True):
        assert [draw.record for draw in one] == [draw.record for draw in other]
        assert all(b.caption in {a.caption, ""} for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("number", [0, 1_000_000])
def test_any_batch_of_a_large_data_set_is_found_at_once(number: int) -> None:
    order = Order([dataset("a", [60_000, 30_000]), dataset("b", [10_000], repeats=4)], seed=1)
    start = process_time()
    order.batch(number)
    assert process_time() - start < 0.8
