"""Damaged entries are found, all of them; and nothing is ever called ours that is not."""

import os
import time

import pytest
import torch
from encoders import Averages, Lengths, shades

from simpletuner.caching import upkeep
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.recent import RecentStore
from simpletuner.caching.tensors import TensorCache
from simpletuner.progress import Recorded
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore

FOREIGN = ["notes.txt", "0a/picture.png", "ab12-flux.pt", "sub/00/x.safetensors", "model.safetensors"]


def filled(folder, count=10):
    store = LocalStore(folder)
    latents = LatentCache({"one": TensorCache(store, "r")})
    latents.fill([shades("one", range(count))], Averages(), 4, Recorded())
    return store, latents


def place(store, latents):
    (found,) = upkeep.places({"images": latents.wanted()})
    assert found.store is store
    return found


def test_exactly_the_damaged_entries_are_found(tmp_path):
    store, _ = filled(tmp_path)
    keys = [entry.key for entry in upkeep.entries(store)]
    (tmp_path / keys[2]).write_bytes((tmp_path / keys[2]).read_bytes()[:-1])
    flipped = bytearray((tmp_path / keys[5]).read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / keys[5]).write_bytes(flipped)
    (tmp_path / keys[7]).write_bytes(b"")
    counts = []
    found = upkeep.damaged(store, keys, counts.append)
    assert set(found) == {keys[2], keys[5], keys[7]} and sum(counts) == 10
    assert found[keys[7]] == "it is empty"


def test_what_is_damaged_can_be_made_anew_and_equals_what_was(tmp_path):
    store, latents = filled(tmp_path)
    whole = {entry.key: store.read(entry.key) for entry in store.entries()}
    victims = sorted(whole)[3:6]
    for key in victims:
        (tmp_path / key).write_bytes(whole[key][:20])
    lost = upkeep.damaged(store, whole, lambda count: None)
    for key in lost:
        store.delete(key)
    kept = {key: (tmp_path / key).stat().st_mtime_ns for key in whole if key not in lost}
    again = LatentCache({"one": TensorCache(store, "r")})
    again.fill([shades("one", range(10))], Averages(), 4, Recorded(), only=lost.__contains__)
    assert {entry.key: store.read(entry.key) for entry in store.entries()} == whole
    assert {key: (tmp_path / key).stat().st_mtime_ns for key in kept} == kept


def test_a_place_is_counted(tmp_path):
    store, _ = filled(tmp_path)
    for name in FOREIGN:
        store.write(name, b"foreign")
    store.write("00/" + "0" * 32 + ".safetensors", b"of the first version")
    latents = LatentCache({"one": TensorCache(store, "r")})
    latents.fill([shades("one", range(5, 13))], Averages(), 4, Recorded(), only=lambda key: False)
    found = upkeep.tally(place(store, latents))
    assert (found.entries, found.needed, found.missing, found.surplus, found.foreign) == (11, 5, 3, 6, 5)
    assert found.kinds == ("images",) and found.name == str(tmp_path)
    assert 0 < found.surplus_size < found.size


def test_an_empty_file_is_missing(tmp_path):
    store, latents = filled(tmp_path)
    key = next(entry.key for entry in store.entries())
    (tmp_path / key).write_bytes(b"")
    found = upkeep.tally(place(store, latents))
    assert (found.needed, found.missing, found.surplus) == (9, 1, 0)


def test_what_is_made_on_demand_is_not_missing(tmp_path):
    store = LocalStore(tmp_path)
    caches = {"one": TensorCache(store, "r"), "two": TensorCache(store, "r", on_demand=True)}
    latents = LatentCache(caches)
    wanted = [shades("one", range(4)), shades("two", range(3, 9))]
    latents.fill(wanted, Averages(), 4, Recorded(), only=lambda key: False)
    found = upkeep.tally(place(store, latents))
    assert (found.needed, found.missing, found.later) == (0, 4, 5)


def test_what_can_go_is_ours_and_not_needed(tmp_path):
    store, _ = filled(tmp_path)
    for name in FOREIGN:
        store.write(name, b"foreign")
    store.write("00/" + "0" * 32 + ".safetensors", b"of the first version")
    latents = LatentCache({"one": TensorCache(store, "r")})
    latents.fill([shades("one", range(5))], Averages(), 4, Recorded())
    surplus = upkeep.surplus(place(store, latents))
    assert len(surplus) == 6
    for entry in surplus:
        store.delete(entry.key)
    remaining = {entry.key for entry in store.entries()}
    assert set(FOREIGN) <= remaining and len(remaining) == len(FOREIGN) + 5


def test_captions_and_images_in_one_place_need_each_other_s_entries(tmp_path):
    store, latents = filled(tmp_path)
    prompts = PromptCache()
    prompts.fill([(TensorCache(LocalStore(tmp_path), "texts"), ["a", "b"])], Lengths(), 1, Recorded())
    (found,) = upkeep.places({"captions": prompts.wanted(), "images": latents.wanted()})
    assert found.kinds == ("captions", "images") and upkeep.surplus(found) == []


def test_a_cache_that_keeps_nothing_is_no_place():
    prompts = PromptCache()
    prompts.fill([(TensorCache(RecentStore(), "r", on_demand=True), ["a"])], Lengths(), 1, Recorded())
    assert upkeep.places({"captions": prompts.wanted()}) == []


def test_halves_of_files_are_found_once_nobody_can_be_writing_them(tmp_path):
    store, _ = filled(tmp_path, count=1)
    old, new, foreign = (tmp_path / name for name in (f".{'a' * 16}.part", f".{'b' * 16}.part", ".mine.part"))
    for path in (old, new, foreign):
        path.write_bytes(b"half")
    for path in (old, foreign):
        os.utime(path, (time.time() - 7200,) * 2)
    assert upkeep.leftovers(store) == [old]
    assert upkeep.leftovers(MemoryStore()) == []


@pytest.mark.parametrize("seed", range(5))
def test_random_harm_is_always_found(tmp_path, seed):
    store, _ = filled(tmp_path, count=6)
    random = torch.Generator().manual_seed(seed)
    keys = [entry.key for entry in upkeep.entries(store)]
    victims = [key for key in keys if torch.rand((), generator=random) < 0.5]
    for key in victims:
        data = bytearray((tmp_path / key).read_bytes())
        place = int(torch.randint(len(data), (), generator=random))
        if torch.rand((), generator=random) < 0.5:
            data[place] ^= 1 << int(torch.randint(8, (), generator=random))
        else:
            del data[place:]
        (tmp_path / key).write_bytes(data)
    assert sorted(upkeep.damaged(store, keys, lambda count: None)) == victims
