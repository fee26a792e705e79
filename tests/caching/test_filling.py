"""Groups, work ahead, writing behind, and two at one cache."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from encoders import Averages, shades
from hypothesis import given
from hypothesis import strategies as st

from simpletuner.caching import upkeep
from simpletuner.caching.filling import Group, Writer, ahead, grouped
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.errors import DataError
from simpletuner.progress import Recorded
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60),
    st.integers(1, 7),
)
def test_the_size_of_a_group_depends_on_what_is_wanted_and_not_on_what_is_missing(things, size):
    kinds = {number: kind for number, (kind, _) in enumerate(things)}
    whole = {member: group.shape for group in grouped(kinds, lambda one: True, size) for member in group.members}
    partial = list(grouped(kinds, lambda one: things[one][1], size))
    assert sorted(member for group in partial for member in group.members) == [
        number for number, (_, is_missing) in enumerate(things) if is_missing
    ]
    for group in partial:
        assert len({kinds[member] for member in group.members}) == 1
        assert 1 <= len(group.members) <= group.shape <= size
        assert {whole[member] for member in group.members} == {group.shape}


def test_a_group_is_filled_up_with_its_last_member():
    assert Group(["a", "b"], 4).filled(["A", "B"]) == ["A", "B", "B", "B"]


def test_things_are_prepared_ahead_but_not_too_far_ahead():
    started = []
    groups = [Group([number], 1) for number in range(50)]
    with ThreadPoolExecutor(4) as pool:
        for done, (_, results) in enumerate(ahead(pool, groups, lambda one: started.append(one) or one, 8)):
            assert results == [done]
            assert len(started) <= done + 9


def test_whoever_meets_work_that_is_done_already_goes_on_from_the_other_end():
    done = {0, 1, 2}
    groups = [Group([number], 1) for number in range(20)]
    with ThreadPoolExecutor(1) as pool:
        order = [group.members[0] for group, _ in ahead(pool, groups, lambda one: None if one in done else one, 1)]
    assert sorted(order) == list(range(20)) and order[:3] == [0, 1, 19]


def test_an_error_while_writing_reaches_the_one_who_encodes():
    class Full(MemoryStore):
        def write(self, key, data):
            raise DataError("no space left")

    cache = TensorCache(Full(), "r")
    with pytest.raises(DataError, match="no space left"), Writer() as writer:
        for number in range(100):
            writer.put(cache, cache.key(str(number)), {"x": torch.zeros(1)})
            time.sleep(0.01)
    assert number < 99


def test_entries_that_wait_to_be_written_are_limited():
    gate, waiting = threading.Event(), []

    class Slow(MemoryStore):
        def write(self, key, data):
            waiting.append(key)
            gate.wait(5)
            super().write(key, data)

    cache, store = None, Slow()
    cache = TensorCache(store, "r")
    threading.Timer(0.3, gate.set).start()
    with Writer(threads=2, pending=4) as writer:
        for number in range(12):
            writer.put(cache, cache.key(str(number)), {"x": torch.zeros(1)})
            assert gate.is_set() or number < 4
    assert len(list(store.entries())) == 12


FILL = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from encoders import Averages, shades
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.progress import Recorded
from simpletuner.storage.local import LocalStore
codec = Averages(seconds=0.01)
cache = LatentCache({"one": TensorCache(LocalStore(Path(sys.argv[1])), "r")})
print("ready", flush=True)
sys.stdin.readline()
cache.fill([shades("one", range(int(sys.argv[2])))], codec, 4, Recorded())
print(sum(codec.seen))
"""


def start(folder, count):
    tests = Path(__file__).parent.parent
    command = [sys.executable, "-c", FILL, str(folder), str(count), str(tests), str(tests.parent)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def undisturbed(folder, count):
    cache = LatentCache({"one": TensorCache(LocalStore(folder), "r")})
    cache.fill([shades("one", range(count))], Averages(), 4, Recorded())
    return contents(folder)


def test_two_processes_fill_one_cache_at_the_same_time_and_share_the_work(tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    running = [start(together, 200) for _ in range(2)]
    for one in running:
        assert one.stdout.readline() == "ready\n"
    said = []
    for one in running:
        one.stdin.write("\n")
        one.stdin.flush()
        time.sleep(0.05)
    for one in running:
        said.append(int(one.communicate(timeout=60)[0]))
    assert all(one.returncode == 0 for one in running)
    assert contents(together) == undisturbed(alone, 200)
    assert sum(said) < 400


KILL = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from encoders import Averages, shades
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.progress import Recorded
from simpletuner.storage.local import LocalStore

def fill():
    cache = LatentCache({"one": TensorCache(LocalStore(Path(sys.argv[1])), "r")})
    cache.fill([shades("one", range(300))], Averages(seconds=0.003), 4, Recorded())

draw, killed = random.Random(1), 0
while killed < 50:
    child = os.fork()
    if not child:
        fill()
        os._exit(0)
    time.sleep(draw.uniform(0.005, 0.06))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    if killed % 10 == 9:  # start from nothing now and then, or the cache would soon be full
        for path in list(Path(sys.argv[1]).rglob("*.safetensors"))[::2]:
            path.unlink()
fill()
"""


@pytest.mark.slow
def test_fifty_kills_at_random_moments_leave_what_an_undisturbed_run_does(tmp_path):
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    tests = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", KILL, str(killed), str(tests), str(tests.parent)], check=True, timeout=100)
    for half in upkeep.leftovers(LocalStore(killed), older_than=-1):
        half.unlink()
    assert contents(killed) == undisturbed(alone, 300)
