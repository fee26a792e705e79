"""A cache entry is right or not there."""

import pytest
import torch

from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, Recorded, StageStarted
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore


def test_what_is_put_comes_back_exactly():
    cache = TensorCache(MemoryStore(), "recipe")
    tensors = {"mean": torch.randn(16, 8, 8), "half": torch.randn(3).bfloat16()}
    cache.put(cache.key("a"), tensors)
    found = cache.get(cache.key("a"))
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_recipe_and_content_both_decide_the_key_and_cannot_be_confused():
    cache = TensorCache(MemoryStore(), "recipe")
    keys = [
        cache.key("a", "b"),
        cache.key("ab"),
        cache.key("b", "a"),
        TensorCache(MemoryStore(), "other").key("a", "b"),
    ]
    assert len(set(keys)) == 4


def test_missing_names_each_absent_key_once_in_order():
    cache = TensorCache(MemoryStore(), "recipe")
    first, second, third = (cache.key(name) for name in "abc")
    cache.put(second, {"x": torch.zeros(1)})
    assert cache.missing([third, first, second, third]) == [third, first]


@pytest.mark.parametrize("harm", ["truncated", "garbage", "gone"])
def test_a_damaged_entry_is_named_with_what_to_do(tmp_path, harm):
    cache = TensorCache(LocalStore(tmp_path), "recipe")
    key = cache.key("a")
    cache.put(key, {"x": torch.zeros(100)})
    victim = tmp_path / key
    if harm == "truncated":
        victim.write_bytes(victim.read_bytes()[:50])
    elif harm == "garbage":
        victim.write_bytes(b"not a tensor file")
    else:
        victim.unlink()
    with pytest.raises(DataError, match=f"cache entry {key} cannot be read.*it is made anew"):
        cache.get(key)


class Encoder:
    """Encodes a prompt as its length, and remembers how often it was opened and what it saw."""

    def __init__(self):
        self.opened = 0
        self.seen = []

    def __call__(self):
        self.opened += 1
        return self

    def __enter__(self):
        def encode(prompts):
            self.seen.append(list(prompts))
            return [{"length": torch.tensor(len(prompt))} for prompt in prompts]

        return encode

    def __exit__(self, *error):
        return None


def test_only_missing_prompts_are_encoded_in_batches_and_once():
    cache, encoder, recorded = TensorCache(MemoryStore(), "recipe"), Encoder(), Recorded()
    prompts = PromptCache()
    prompts.fill([(cache, ["one", "three", "one"]), (cache, ["three", "eleven"])], encoder, 2, recorded)
    assert encoder.seen == [["one", "three"], ["eleven"]]
    assert recorded.events == [StageStarted("text embeddings", 3), Advanced(2), Advanced(1)]
    again = PromptCache()
    again.fill([(cache, ["one", "new"])], encoder, 2, recorded)
    assert encoder.seen[2:] == [["new"]]
    assert int(again["one"]["length"]) == 3 and int(prompts["eleven"]["length"]) == 6


def test_when_nothing_is_missing_the_encoder_is_never_opened():
    cache, encoder = TensorCache(MemoryStore(), "recipe"), Encoder()
    PromptCache().fill([(cache, ["one"])], encoder, 1, Recorded())
    PromptCache().fill([(cache, ["one"])], encoder, 1, Recorded())
    assert encoder.opened == 1


def test_a_prompt_lives_in_the_cache_it_was_first_asked_for_in():
    first, second, encoder = TensorCache(MemoryStore(), "r"), TensorCache(MemoryStore(), "r"), Encoder()
    prompts = PromptCache()
    prompts.fill([(first, ["shared"]), (second, ["shared", "own"])], encoder, 4, Recorded())
    assert not first.missing([first.key("shared")]) and second.missing([second.key("shared")])
    assert not second.missing([second.key("own")])
