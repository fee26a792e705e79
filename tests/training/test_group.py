"""Processes that train together: gradients add up, work is done once, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import time

import processes
import pytest
import torch

from simpletuner.errors import ConfigError, DataError, TrainingError
from simpletuner.training.gradients import add, parted
from simpletuner.training.group import Alone, Together, joined
from simpletuner.training.place import Place

IMPATIENT = 2.0


def joining(place, work, *given):
    """Join, work, and leave."""
    group = Together(place, patience=IMPATIENT)
    try:
        return work(group, *given)
    finally:
        group.close()


def together(count, work, *given):
    return processes.together(count, joining, work, *given)


def weights(rank):
    """Weights of two precisions, some with a gradient; the last one is used by nobody, the one before by one."""
    random = torch.Generator().manual_seed(rank)
    made = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2, 2), (7,), (1,))]
    made[1].data = made[1].data.double()
    made[2].data = made[2].data.bfloat16()
    for one in made[:3] if rank else made[:4]:
        one.grad = torch.randn(one.shape, generator=random, dtype=torch.float64).to(one.dtype)
    return made


def added(group):
    mine = weights(group.place.rank)
    group.add_gradients(mine)
    return [one.grad for one in mine]


@pytest.mark.parametrize("count", [2, 3])
def test_every_process_has_the_sum_of_all_gradients(count):
    given = [weights(rank) for rank in range(count)]
    for found in together(count, added):
        for number in range(3):
            parts = [one[number].grad.double() for one in given]
            torch.testing.assert_close(found[number], sum(parts).to(found[number].dtype))
        assert torch.equal(found[3], given[0][3].grad)
        assert found[4] is None


def test_gradients_are_sent_in_pieces_that_each_hold_one_kind_and_lose_none():
    random = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 2**23, (40,), generator=random).tolist()
    kinds = [torch.float32, torch.float64]
    given = [torch.empty(size, dtype=kinds[number % 2], device="meta") for number, size in enumerate(sizes)]
    parts = list(parted(given))
    assert sorted(id(one) for part in parts for one in part) == sorted(map(id, given))
    assert all(len({one.dtype for one in part}) == 1 for part in parts)
    assert all(sum(one.numel() for one in part) <= 2**24 for part in parts)
    assert len(parts) < len(given) / 2


def test_gradients_of_16_bits_are_added_up_without_losing_digits():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    weight.grad = torch.ones(3, dtype=torch.bfloat16)

    def reduce(tensor):
        for _ in range(4):
            tensor += 2**-9 if tensor.is_floating_point() else 1  # less than bf16 shows beside 1; four of them are not

    add([weight], reduce)
    assert weight.grad.tolist() == [1 + 2**-7] * 3


def test_very_many_small_gradients_are_sorted_into_pieces_at_once():
    began = time.process_time()
    (whole,) = parted([torch.empty(8, device="meta") for _ in range(20_000)])
    assert len(whole) == 20_000
    assert time.process_time() - began < 4


def copied(group):
    mine = [torch.nn.Parameter(torch.full((3,), float(group.place.rank + 1)))]
    group.copy_weights(mine)
    return mine[0].tolist()


def test_every_process_gets_the_weights_of_the_first():
    assert together(3, copied) == [[1.0] * 3] * 3


def said(group, fails):
    def work():
        if group.place.rank == fails:
            raise TrainingError("this went wrong")
        return group.place.rank * 10

    return group.every(work)


def test_what_every_process_says_is_known_to_all():
    assert together(3, said, None) == [[0, 10, 20]] * 3


def test_an_error_in_one_process_ends_all_and_the_others_say_whose_it_was():
    elsewhere = "Elsewhere: process 1 ended with: this went wrong"
    assert together(3, said, 1) == [elsewhere, "TrainingError: this went wrong", elsewhere]


def by_the_first(group, folder, fails):
    def work():
        time.sleep(2 * IMPATIENT)
        if fails:
            raise DataError("no disk")
        (folder / str(group.place.rank)).touch()
        return "done"

    return group.first(work)


def test_the_first_process_works_longer_than_the_others_have_patience_and_they_wait(tmp_path):
    assert together(3, by_the_first, tmp_path, False) == ["done"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_an_error_of_the_first_process_reaches_those_who_wait(tmp_path):
    said = ["DataError: no disk", "Elsewhere: process 0 ended with: no disk"]
    assert together(2, by_the_first, tmp_path, True) == said


def met(folder, rank, count):
    """Who has come within some time, which ends when so many are there."""
    folder.mkdir(exist_ok=True)
    (folder / str(rank)).touch()
    until = time.monotonic() + IMPATIENT
    while len(list(folder.iterdir())) < count and time.monotonic() < until:
        time.sleep(0.01)
    return sorted(path.name for path in folder.iterdir())


def alternating(group, folder):
    rank = group.place.rank
    in_turn = group.in_turn(lambda: met(folder / "turns", rank, 3))
    return in_turn, group.all_at_once(lambda: met(folder / "together", rank, 3))


def test_the_first_process_is_done_before_the_others_begin_and_they_work_at_once(tmp_path):
    turns = together(3, alternating, tmp_path)
    everybody = ["0", "1", "2"]
    assert [turn for turn, _ in turns] == [["0"], everybody, everybody]
    assert [share for _, share in turns] == [everybody] * 3


def of_machines(place, folder):
    """Two machines of two processes."""
    group = Together(Place(place.rank, place.processes, place.rank % 2), patience=IMPATIENT)
    try:
        return group.in_turn(lambda: met(folder, place.rank, 4))
    finally:
        group.close()


def test_one_process_of_each_machine_goes_before_the_rest_of_it(tmp_path):
    turns = processes.together(4, of_machines, tmp_path)
    assert turns == [["0"], ["0", "1", "2", "3"], ["0", "2"], ["0", "1", "2", "3"]]


def dying(group, folder, how):
    if group.place.rank == 0:
        os.kill(os.getpid(), how)
    began = time.monotonic()
    try:
        group.first(lambda: None)
    finally:
        (folder / str(group.place.rank)).write_text(str(time.monotonic() - began))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_nobody_waits_for_a_process_that_is_dead_or_frozen(tmp_path, how):
    """The frozen one stands for a machine that is not reached any more."""
    gone, *others = processes.together(3, joining, dying, tmp_path, how, hangs=[0] if how == signal.SIGSTOP else [])
    assert gone is None
    assert all(one.startswith("Elsewhere: ") for one in others)
    assert all(float((tmp_path / str(rank)).read_text()) < 4 * IMPATIENT for rank in (1, 2))


def test_a_process_alone_needs_no_group():
    with joined(None) as group:
        assert isinstance(group, Alone)
        assert group.first(lambda: 3) == 3 and group.every(lambda: 4) == [4]
        mine = torch.nn.Parameter(torch.ones(2))
        mine.grad = torch.full((2,), 5.0)
        group.add_gradients([mine])
        assert mine.grad.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"WORLD_SIZE": "4"}, None),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, Place(3, 4, 1)),
        ({"WORLD_SIZE": "2", "RANK": "1"}, Place(1, 2, 1)),
    ],
)
def test_a_process_knows_its_place_from_its_launcher(environment, place):
    assert Place.read(environment) == place
    if place is not None:
        assert Place.read(place.variables()) == place


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_what_a_launcher_asks_for_that_is_not_served_is_refused(kind):
    environment = {"WORLD_SIZE": "2", "RANK": "0", f"ACCELERATE_USE_{kind}": "true"}
    with pytest.raises(ConfigError, match=f"asks for {kind}, which is not served"):
        Place.read(environment)
