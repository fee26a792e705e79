"""Draws are the same everywhere and for ever."""

from collections import Counter

from simpletuner.data.dice import Dice, share


def test_the_same_seed_gives_the_same_draws_on_every_machine() -> None:
    dice = Dice(7)
    assert dice.order(6) == [3, 4, 0, 2, 5, 1]
    assert [dice.place(100) for _ in range(4)] == [28, 5, 82, 93]


def test_an_order_holds_every_number_once() -> None:
    assert sorted(Dice(1).order(50)) == list(range(50))
    assert Dice(1).order(0) == []


def test_all_orders_of_three_come_up_equally_often() -> None:
    dice = Dice(3)
    counts = Counter(tuple(dice.order(3)) for _ in range(6000))
    assert len(counts) == 6
    assert all(900 < count < 1100 for count in counts.values())


def test_a_share_is_at_least_0_and_always_below_1() -> None:
    assert share(0) == 0.0
    assert 0.999 < share(2**63 - 1) < 1.0
    assert all(0 <= Dice(seed).share() < 1 for seed in range(100))
