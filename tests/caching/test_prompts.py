"""Every prompt is encoded once, and the encoders come and go."""

import pytest
from encoders import Lengths

from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import DamagedEntry, TensorCache, opened
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, Notice, Recorded, StageStarted
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore


def test_only_missing_prompts_are_encoded_in_batches_and_once():
    cache, encoder, recorded = TensorCache(MemoryStore(), "recipe"), Lengths(), Recorded()
    prompts = PromptCache()
    prompts.fill([(cache, ["one", "three", "one"]), (cache, ["three", "eleven"])], encoder, 2, recorded)
    assert encoder.seen == [["one", "three"], ["eleven"]]
    assert recorded.events == [
        Notice("text embeddings: 3 new"),
        StageStarted("text embeddings", 3),
        Advanced(2),
        Advanced(1),
    ]
    again = PromptCache()
    again.fill([(cache, ["one", "new"])], encoder, 2, recorded)
    assert encoder.seen[2:] == [["new", "new"]]  # a batch keeps its size, so that numbers round alike
    assert int(again["one"]["length"]) == 3 and int(prompts["eleven"]["length"]) == 6


def test_when_nothing_is_missing_the_encoder_is_never_opened():
    cache, encoder, recorded = TensorCache(MemoryStore(), "recipe"), Lengths(), Recorded()
    PromptCache().fill([(cache, ["one"])], encoder, 1, Recorded())
    PromptCache().fill([(cache, ["one"])], encoder, 1, recorded)
    assert encoder.opened == 1 and recorded.events == []


def test_a_cache_that_cannot_be_written_is_told_before_the_encoder_is_opened(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache, encoder = TensorCache(LocalStore(tmp_path / "file" / "text"), "recipe"), Lengths()
    with pytest.raises(DataError, match="cannot write .*text: not a directory. A file is in the way"):
        PromptCache().fill([(cache, ["one"])], encoder, 1, Recorded())
    assert encoder.opened == 0


def test_a_prompt_lives_in_the_cache_it_was_first_asked_for_in():
    first, second, encoder = TensorCache(MemoryStore(), "r"), TensorCache(MemoryStore(), "r"), Lengths()
    prompts = PromptCache()
    prompts.fill([(first, ["shared"]), (second, ["shared", "own"])], encoder, 4, Recorded())
    assert not first.missing([first.key("shared")]) and second.missing([second.key("shared")])
    assert not second.missing([second.key("own")])
    assert prompts.wanted() == {first: {first.key("shared")}, second: {second.key("own")}}


def test_another_encoder_is_the_reason_that_is_told():
    store, recorded = MemoryStore(), Recorded()
    PromptCache().fill([(TensorCache(store, "r"), ["one", "two"])], Lengths(), 1, Recorded())
    PromptCache().fill([(TensorCache(store, "other"), ["one", "two", "new"])], Lengths(), 1, recorded)
    assert recorded.texts() == ["text embeddings: 1 new, 2 because the encoder changed"]


def test_on_demand_prompts_are_encoded_when_they_are_first_asked_for(tmp_path):
    cache, encoder, recorded = opened(LocalStore(tmp_path), "r", on_demand=True), Lengths(), Recorded()
    prompts = PromptCache()
    prompts.fill([(cache, ["one", "three"])], encoder, 1, recorded)
    assert encoder.opened == 0 and recorded.events == []
    assert [int(prompts[text]["length"]) for text in ("three", "one", "three")] == [5, 3, 5]
    assert encoder.seen == [["three"], ["one"]] and encoder.opened == 1
    prompts.close()
    assert encoder.closed == 1 and len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_a_cache_that_is_switched_off_leaves_no_file(tmp_path):
    encoder, prompts = Lengths(), PromptCache()
    prompts.fill([(opened(LocalStore(tmp_path), "r", disable=True), ["one"])], encoder, 1, Recorded())
    assert int(prompts["one"]["length"]) == int(prompts["one"]["length"]) == 3
    assert encoder.seen == [["one"]] and list(tmp_path.iterdir()) == []


def test_a_damaged_prompt_ends_training_with_the_command_that_repairs_it(tmp_path):
    cache, prompts = TensorCache(LocalStore(tmp_path), "r"), PromptCache()
    prompts.fill([(cache, ["one"])], Lengths(), 1, Recorded())
    (entry,) = tmp_path.rglob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:-1])
    with pytest.raises(DamagedEntry, match="Run `simpletuner cache verify`"):
        prompts["one"]


def test_only_the_entries_that_are_asked_for_are_made():
    cache, encoder, prompts = TensorCache(MemoryStore(), "r"), Lengths(), PromptCache()
    prompts.fill([(cache, ["one", "two"])], encoder, 1, Recorded(), only={cache.key("two")}.__contains__)
    assert encoder.seen == [["two"]]
