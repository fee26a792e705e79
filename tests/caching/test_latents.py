"""Every image is encoded once, whoever shows it and however often the run starts."""

import pytest
import torch
from encoders import Averages, Shades, brightness, shades

from simpletuner.caching.latents import SAMPLE, LatentCache
from simpletuner.caching.tensors import DamagedEntry, TensorCache
from simpletuner.errors import DataError
from simpletuner.progress import Advanced, Notice, Recorded, StageStarted
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore


def filled(caches, datasets, codec=None, *, batch_size=4, reporter=None, mode="posterior", only=None):
    cache = LatentCache(caches, mode=mode)
    broken = cache.fill(datasets, codec or Averages(), batch_size, reporter or Recorded(), only=only)
    return cache, broken


def number(cache, dataset, place):
    return brightness(cache.get(dataset.id, dataset.records[place])[0])


def test_every_image_gets_its_own_latents():
    tensors, dataset = TensorCache(MemoryStore(), "r"), shades("one", range(23))
    cache, broken = filled({"one": tensors}, [dataset])
    assert not broken and [number(cache, dataset, place) for place in range(23)] == list(range(23))


def test_the_encoder_is_opened_once_and_never_when_nothing_is_missing():
    tensors, dataset, codec = TensorCache(MemoryStore(), "r"), shades("one", range(6)), Averages()
    recorded = Recorded()
    filled({"one": tensors}, [dataset], codec, reporter=recorded)
    assert codec.seen == [4, 2] and codec.opened == codec.closed == 1
    assert recorded.events == [
        Notice("image latents: 6 new"),
        StageStarted("image latents", 6),
        Advanced(4),
        Advanced(2),
    ]
    again = Recorded()
    filled({"one": tensors}, [dataset], codec, reporter=again)
    assert codec.opened == 1 and again.events == []


def test_a_cache_that_cannot_be_written_is_told_before_the_encoder_is_opened(tmp_path):
    (tmp_path / "file").write_text("in the way")
    codec = Averages()
    with pytest.raises(DataError, match="cannot write .*vae: not a directory. A file is in the way"):
        filled({"one": TensorCache(LocalStore(tmp_path / "file" / "vae"), "r")}, [shades("one", range(3))], codec)
    assert codec.opened == 0


def test_a_bucket_is_never_mixed_with_another():
    tensors, codec = TensorCache(MemoryStore(), "r"), Averages()
    small, large = shades("small", range(5)), shades("large", range(5, 8), edge=128)
    filled({"small": tensors, "large": tensors}, [small, large], codec)
    assert codec.seen == [4, 1, 3]


def test_two_data_sets_that_show_the_same_image_encode_it_once_and_both_have_it():
    first, second, codec = TensorCache(MemoryStore(), "r"), TensorCache(MemoryStore(), "r"), Averages()
    one, two, three = shades("one", range(4)), shades("two", range(2, 6)), shades("three", range(4))
    caches = {"one": first, "two": second, "three": first}
    cache, _ = filled(caches, [one, two, three], codec, batch_size=1)
    assert len(codec.seen) == 6
    assert [number(cache, two, place) for place in range(4)] == [2, 3, 4, 5]
    assert [number(cache, three, place) for place in range(4)] == [0, 1, 2, 3]


def test_the_notice_tells_new_images_from_changed_ones():
    store = MemoryStore()
    filled({"one": TensorCache(store, "r")}, [shades("one", range(5))])
    recorded = Recorded()
    both = Shades("one", [*shades("one", range(3), crop=1).records, *shades("one", range(3, 9)).records])
    filled({"one": TensorCache(store, "r")}, [both], reporter=recorded)
    assert recorded.texts() == ["image latents: 4 new, 3 because crop or resolution changed"]
    recorded = Recorded()
    filled({"one": TensorCache(store, "other")}, [shades("one", range(5))], reporter=recorded)
    assert recorded.texts() == ["image latents: 5 because the encoder changed"]


def test_a_broken_image_is_named_at_once_for_every_data_set_that_shows_it_and_the_rest_is_encoded():
    tensors, recorded = TensorCache(MemoryStore(), "r"), Recorded()
    one, two = shades("one", range(8), broken=[2]), shades("two", range(4), broken=[2])
    cache, broken = filled({"one": tensors, "two": tensors}, [one, two], reporter=recorded)
    said = "/shelf/2.png: it is damaged"
    assert broken == {"one": {"2.png": said}, "two": {"2.png": said}}
    place = recorded.events.index(Notice(f"data set 'one': left out: {said}"))
    assert place < recorded.events.index(Advanced(4))
    assert [number(cache, one, place) for place in (0, 1, 3, 7)] == [0, 1, 3, 7]


def test_a_thousand_broken_images_do_not_drown_the_run():
    recorded = Recorded()
    dataset = shades("one", range(100), broken=range(100))
    _, broken = filled({"one": TensorCache(MemoryStore(), "r")}, [dataset], reporter=recorded)
    assert len(broken["one"]) == 100 and len(recorded.texts()) == 11


def test_a_file_that_cannot_be_reached_ends_the_run_instead_of_being_called_broken():
    class Gone(Shades):
        def pixels(self, record):
            raise DataError(f"cannot read {record.key}: no such file")

    with pytest.raises(DataError, match=r"cannot read \d.png"):
        filled({"one": TensorCache(MemoryStore(), "r")}, [Gone("one", shades("one", range(9)).records)])


def test_a_mistake_of_ours_in_a_worker_says_at_which_file():
    class Wrong(Shades):
        def pixels(self, record):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        filled({"one": TensorCache(MemoryStore(), "r")}, [Wrong("one", shades("one", range(9)).records)])
    assert raised.value.__notes__ == ["while reading /shelf/0.png"]


def test_what_was_encoded_before_an_error_is_kept():
    class Failing(Averages):
        def encode(self, pixels):
            if len(self.seen) == 3:
                raise DataError("the card is gone")
            return super().encode(pixels)

    store = MemoryStore()
    with pytest.raises(DataError, match="the card is gone"):
        filled({"one": TensorCache(store, "r")}, [shades("one", range(40))], Failing(), batch_size=4)
    assert len(list(store.entries())) == 12


def test_a_full_disk_is_told_and_not_swallowed():
    class Full(MemoryStore):
        def write(self, key, data):
            raise DataError("cannot write: no space left on device")

    with pytest.raises(DataError, match="no space left"):
        filled({"one": TensorCache(Full(), "r")}, [shades("one", range(3))])


def test_numbers_that_are_not_finite_are_refused_with_the_remedy():
    class Overflowing(Averages):
        def encode(self, pixels):
            found = super().encode(pixels)
            found.mean[1] = float("nan")
            return found

    with pytest.raises(DataError, match=r"/shelf/1.png: .* not finite. Set vae_dtype to fp32"):
        filled({"one": TensorCache(MemoryStore(), "r")}, [shades("one", range(3))], Overflowing())


def test_a_single_draw_is_kept_where_the_run_asks_for_it_and_is_always_the_same():
    dataset = shades("one", range(6))
    one, _ = filled({"one": TensorCache(MemoryStore(), "r/sample")}, [dataset], mode=SAMPLE)
    two, _ = filled({"one": TensorCache(MemoryStore(), "r/sample")}, [dataset], mode=SAMPLE, batch_size=1)
    for record in dataset.records:
        mean, std = one.get("one", record)
        assert not std.any() and std.shape == mean.shape and torch.equal(mean, two.get("one", record)[0])
    drawn = torch.stack([one.get("one", record)[0] for record in dataset.records])
    assert 0.3 < float((drawn - drawn.mean((1, 2, 3), keepdim=True)).std()) < 0.7


def test_on_demand_nothing_is_encoded_before_it_is_asked_for_and_everything_once(tmp_path):
    dataset, codec = shades("one", range(5)), Averages()
    tensors = TensorCache(LocalStore(tmp_path), "r", on_demand=True)
    cache, _ = filled({"one": tensors}, [dataset], codec)
    assert codec.opened == 0
    assert [number(cache, dataset, place) for place in (3, 3, 1)] == [3, 3, 1]
    assert codec.seen == [1, 1] and (codec.opened, codec.closed) == (1, 0)
    cache.close()
    assert codec.closed == 1
    later, _ = filled({"one": TensorCache(LocalStore(tmp_path), "r", on_demand=True)}, [dataset], codec)
    assert number(later, dataset, 3) == 3 and codec.opened == 1


def test_on_demand_a_damaged_entry_is_made_anew(tmp_path):
    dataset, codec = shades("one", range(2)), Averages()
    cache, _ = filled({"one": TensorCache(LocalStore(tmp_path), "r", on_demand=True)}, [dataset], codec)
    number(cache, dataset, 1)
    (entry,) = tmp_path.rglob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:-3])
    assert number(cache, dataset, 1) == 1 and number(cache, dataset, 1) == 1 and len(codec.seen) == 2


def test_one_data_set_on_demand_leaves_the_others_to_be_filled():
    store, codec = MemoryStore(), Averages()
    caches = {"now": TensorCache(store, "r"), "later": TensorCache(store, "r", on_demand=True)}
    recorded = Recorded()
    now, later = shades("now", range(3)), shades("later", range(3, 9))
    cache, _ = filled(caches, [now, later], codec, reporter=recorded)
    assert recorded.texts() == ["image latents: 3 new"] and codec.seen == [3]
    assert number(cache, later, 5) == 8


def test_without_on_demand_a_missing_entry_is_an_error_with_a_remedy():
    dataset = shades("one", range(3))
    cache, _ = filled({"one": TensorCache(MemoryStore(), "r")}, [dataset], only=lambda key: False)
    with pytest.raises(DamagedEntry, match="is gone. Run `simpletuner cache verify`"):
        cache.get("one", dataset.records[0])


def test_only_the_entries_that_are_asked_for_are_made():
    tensors, dataset, codec = TensorCache(MemoryStore(), "r"), shades("one", range(9)), Averages()
    cache, _ = filled({"one": tensors}, [dataset], codec, only=lambda key: False)
    assert codec.opened == 0
    ((_, wanted),) = cache.wanted().items()
    some = sorted(wanted)[:2]
    recorded = Recorded()
    filled({"one": tensors}, [dataset], codec, only=some.__contains__, reporter=recorded)
    assert sorted(tensors.missing(wanted)) == sorted(wanted - set(some))
    assert recorded.texts() == []


def test_an_interrupted_run_shows_the_encoder_batches_of_the_same_size():
    dataset = shades("one", range(11))
    for done in range(1, 11):
        store, codec = MemoryStore(), Averages()
        filled({"one": TensorCache(store, "r")}, [shades("one", range(done))])
        filled({"one": TensorCache(store, "r")}, [dataset], codec)
        # Numbers 0 to 7 belong to full batches of four, 8 to 10 to a batch of three, whatever is done already.
        assert codec.seen == [4] * -(-max(0, 8 - done) // 4) + [3]
