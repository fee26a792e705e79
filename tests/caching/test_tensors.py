"""A cache entry is right or not there."""

import pytest
import torch

from simpletuner.caching.naming import Reasons
from simpletuner.caching.recent import RecentStore
from simpletuner.caching.tensors import DamagedEntry, TensorCache, opened
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore


def entry(value=1.0):
    return {"x": torch.full((100,), value)}


def test_what_is_put_comes_back_exactly():
    cache = TensorCache(MemoryStore(), "recipe")
    tensors = {"mean": torch.randn(16, 8, 8), "half": torch.randn(3).bfloat16()}
    cache.put(cache.key("a"), tensors)
    found = cache.get(cache.key("a"))
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_missing_names_each_absent_key_once_in_order():
    cache = TensorCache(MemoryStore(), "recipe")
    first, second, third = (cache.key(name) for name in "abc")
    cache.put(second, entry())
    assert cache.missing([third, first, second, third]) == [third, first]


def test_an_entry_without_bytes_is_missing(tmp_path):
    cache = TensorCache(LocalStore(tmp_path), "recipe")
    (tmp_path / cache.key("a")).parent.mkdir()
    (tmp_path / cache.key("a")).touch()
    assert cache.missing([cache.key("a")]) == [cache.key("a")]


def test_what_a_run_needs_elsewhere_is_no_sign_of_a_change():
    store = MemoryStore()
    cache = TensorCache(store, "recipe")
    small, large = cache.key("image", "512"), cache.key("image", "1024")
    cache.put(small, entry())
    assert cache.why({small, large}) == Reasons(new=1)
    assert cache.why({large}) == Reasons(plan=1)
    assert TensorCache(store, "other").why({TensorCache(store, "other").key("image", "512")}) == Reasons(recipe=1)


@pytest.mark.parametrize("harm", ["truncated", "a bit", "garbage", "gone"])
def test_a_damaged_entry_is_named_with_the_command_that_repairs_it(tmp_path, harm):
    cache = TensorCache(LocalStore(tmp_path), "recipe")
    key = cache.key("a")
    cache.put(key, entry())
    assert cache.damage(key) == ""
    victim = tmp_path / key
    whole = victim.read_bytes()
    if harm == "gone":
        victim.unlink()
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 4])
        victim.write_bytes({"truncated": whole[:50], "a bit": flipped, "garbage": b"not a tensor file"}[harm])
    with pytest.raises(DamagedEntry, match="Run `simpletuner cache verify` with the config of this run") as raised:
        cache.get(key)
    assert str(victim) in str(raised.value)
    assert cache.find(key) is None and cache.damage(key)


def test_a_cache_that_is_switched_off_writes_nothing_and_makes_everything_when_asked(tmp_path):
    cache = opened(LocalStore(tmp_path), "recipe", disable=True)
    cache.put(cache.key("a"), entry())
    assert cache.on_demand and torch.equal(cache.get(cache.key("a"))["x"], entry()["x"])
    assert list(tmp_path.iterdir()) == []
    kept = opened(LocalStore(tmp_path), "recipe", on_demand=True)
    kept.put(kept.key("a"), entry())
    assert kept.on_demand and len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_the_recent_store_forgets_what_was_not_used_for_longest():
    store = RecentStore(limit=30)
    for name in "abc":
        store.write(name, bytes(10))
    store.read("a")
    store.write("d", bytes(10))
    assert [found.key for found in store.entries()] == ["a", "c", "d"]
    with pytest.raises(KeyError):
        store.read("b")
    store.write("d", bytes(25))
    assert [found.key for found in store.entries()] == ["d"]


def test_the_recent_store_keeps_one_thing_that_is_larger_than_its_limit():
    store = RecentStore(limit=5)
    store.write("a", bytes(50))
    assert "a" in store and len(store.read("a")) == 50
    store.delete("a")
    store.delete("a")
    assert "a" not in store
