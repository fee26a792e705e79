"""Old caches are taken over where it can be shown that they fit, and refused with the reason where not."""

import gzip
import io
import json
import os
import pickle
import random
import time
from hashlib import md5, sha256
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from encoders import Averages, Lengths, Shades
from PIL import Image

from simpletuner.caching.importing import import_latents
from simpletuner.caching.importing_texts import TextShape, import_texts
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.data.items import Placement, Record, Size
from simpletuner.data.sources.local import LocalFolder
from simpletuner.progress import Recorded
from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore

LATENTS = torch.arange(16 * 8 * 12, dtype=torch.float32).reshape(16, 8, 12)
WHOLE = Placement(Size(96, 64), (0, 0), Size(96, 64))
MIDDLE = Placement(Size(100, 64), (2, 0), Size(96, 64))
LEFT = Placement(Size(100, 64), (0, 0), Size(96, 64))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    return folder


def draw(folder, key="sub/a.png", mode="RGB", **options):
    path = folder / key
    Image.new(mode, (200, 128)).save(path, **options)
    os.utime(path, (time.time() - 1000,) * 2)
    return path


def data_set(folder, *keys, placement=WHOLE, captions=("a red circle",)):
    records = [
        Record(key, "1", f"digest of {key}", Size(200, 128), placement, captions) for key in keys or ["sub/a.png"]
    ]
    return Shades("one", records, source=LocalFolder(folder, frozenset({".png", ".jpg", ".txt"})))


def taken(folder, dataset):
    cache = LatentCache({"one": TensorCache(MemoryStore(), "r")})
    cache.fill([dataset], Averages(), 4, Recorded(), only=lambda key: False)
    return import_latents(folder, [dataset], cache, lambda count: None), cache


def simpletuner_file(folder, key="sub/a.png", content=LATENTS, *, zipped=False):
    image = PurePosixPath(key)
    path = folder / image.parent / f"{sha256(image.stem.encode()).hexdigest()}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(gzip.compress(buffer.getvalue()) if zipped else buffer.getvalue())
    return path


def kohya_file(folder, key="sub/a.png", **changes):
    image = PurePosixPath(key)
    arrays = {
        "latents_8x12": LATENTS.numpy(),
        "original_size_8x12": np.array([200, 128]),
        "crop_ltrb_8x12": np.array([0, 0, 200, 128]),
        **changes,
    }
    path = folder / image.parent / f"{image.stem}_0200x0128_flux.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("content", [LATENTS, LATENTS[None], {"latents": LATENTS}, LATENTS.bfloat16()])
@pytest.mark.parametrize("zipped", [True, False])
def test_latents_of_simpletuner_become_one_fixed_draw(tmp_path, images, content, zipped):
    draw(images)
    simpletuner_file(tmp_path / "old", content=content, zipped=zipped)
    dataset = data_set(images)
    found, cache = taken(tmp_path / "old", dataset)
    assert found.taken == {"latents of SimpleTuner": 1} and not found.refused
    mean, std = cache.get("one", dataset.records[0])
    expected = content["latents"] if isinstance(content, dict) else content
    assert torch.equal(mean, expected.reshape(16, 8, 12).float()) and not std.any()


def test_latents_of_sd_scripts_become_one_fixed_draw(images):
    draw(images)
    kohya_file(images)
    dataset = data_set(images)
    found, cache = taken(images, dataset)
    assert found.taken == {"latents of sd-scripts": 1}
    assert torch.equal(cache.get("one", dataset.records[0])[0], LATENTS)


def reasons(found):
    assert not found.taken
    return list(found.refused)


def test_an_image_that_was_changed_since_is_encoded_anew(tmp_path, images):
    path = draw(images)
    simpletuner_file(tmp_path / "old")
    kohya_file(images)
    os.utime(path, (time.time() + 1000,) * 2)
    for folder in (tmp_path / "old", images):
        assert reasons(taken(folder, data_set(images))[0]) == ["the image was changed after it was made"]


def test_a_file_that_two_images_share_is_refused(tmp_path, images):
    draw(images)
    draw(images, "sub/a.jpg")
    simpletuner_file(tmp_path / "old")
    found, _ = taken(tmp_path / "old", data_set(images, "sub/a.png", "sub/a.jpg"))
    assert reasons(found) == ["several images have this name but for the ending, and share one file"]


@pytest.mark.parametrize("content", [LATENTS[:, :7], LATENTS[:4], LATENTS[0], torch.zeros(16, 12, 8)])
def test_latents_of_another_size_are_refused(tmp_path, images, content):
    draw(images)
    simpletuner_file(tmp_path / "old", content=content)
    assert reasons(taken(tmp_path / "old", data_set(images))[0]) == ["its size is not the one that this config needs"]


def test_numbers_that_are_not_finite_are_refused(tmp_path, images):
    draw(images)
    simpletuner_file(tmp_path / "old", content=LATENTS * float("inf"))
    assert reasons(taken(tmp_path / "old", data_set(images))[0]) == ["it holds numbers that are not finite"]


class Trap:
    """Would leave a file behind if it were ever unpickled."""

    def __reduce__(self):
        return os.mkdir, ("/tmp/never-made-by-an-import",)


@pytest.mark.parametrize(
    "data", [pickle.dumps(Trap()), b"", b"\x1f\x8b", b"\x1f\x8bgarbage", b"PK\x03\x04", random.Random(0).randbytes(99)]
)
def test_what_is_not_plain_tensors_is_refused_and_never_run(tmp_path, images, data):
    draw(images)
    simpletuner_file(tmp_path / "old").write_bytes(data)
    kohya_file(images).write_bytes(data)
    assert reasons(taken(tmp_path / "old", data_set(images))[0]) == ["it cannot be read as plain tensors"]
    assert reasons(taken(images, data_set(images))[0]) == ["it cannot be read as plain arrays"]
    assert not os.path.exists("/tmp/never-made-by-an-import")


def test_a_trap_inside_a_torch_file_is_refused_and_never_run(tmp_path, images):
    draw(images)
    simpletuner_file(tmp_path / "old", content=Trap())
    assert reasons(taken(tmp_path / "old", data_set(images))[0]) == ["it cannot be read as plain tensors"]
    simpletuner_file(tmp_path / "old", content=["no tensor"])
    assert reasons(taken(tmp_path / "old", data_set(images))[0]) == ["it holds no latents"]
    assert not os.path.exists("/tmp/never-made-by-an-import")


def crops(images, *, style="center", path="/somewhere/images/sub/a.png", **changes):
    facts = {
        "original_size": [200, 128],
        "intermediary_size": [100, 64],
        "target_size": [96, 64],
        "crop_coordinates": [0, 2],
        **changes,
    }
    (images / "aspect_ratio_bucket_metadata_one.json").write_text(json.dumps({path: facts}))
    (images / "aspect_ratio_bucket_indices_one.json").write_text(json.dumps({"config": {"crop_style": style}}))


def test_a_crop_is_believed_where_simpletuner_has_written_it_down(tmp_path, images):
    draw(images)
    simpletuner_file(tmp_path / "old")
    dataset = data_set(images, placement=MIDDLE)
    assert reasons(taken(tmp_path / "old", dataset)[0]) == ["which part of the image it shows is not known"]
    crops(images)
    assert taken(tmp_path / "old", dataset)[0].taken == {"latents of SimpleTuner": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"style": "random"}, "it was cropped at random, and where is not known"),
        ({"crop_coordinates": [0, 4]}, "it shows another part of the image than this config does"),
        ({"intermediary_size": [110, 70]}, "it was resized otherwise than this config does"),
        ({"path": "/somewhere/other/a.png"}, "which part of the image it shows is not known"),
    ],
)
def test_another_crop_is_refused(tmp_path, images, changes, reason):
    draw(images)
    simpletuner_file(tmp_path / "old")
    crops(images, **changes)
    assert reasons(taken(tmp_path / "old", data_set(images, placement=MIDDLE))[0]) == [reason]


def test_notes_that_cannot_be_read_are_no_notes(tmp_path, images):
    draw(images)
    simpletuner_file(tmp_path / "old")
    crops(images)
    (images / "aspect_ratio_bucket_metadata_one.json").write_text("[1, 2")
    found, _ = taken(tmp_path / "old", data_set(images, placement=MIDDLE))
    assert reasons(found) == ["which part of the image it shows is not known"]


def test_sd_scripts_shows_the_middle_of_an_image(images):
    draw(images)
    kohya_file(images)
    assert taken(images, data_set(images, placement=MIDDLE))[0].taken == {"latents of sd-scripts": 1}
    found, _ = taken(images, data_set(images, placement=LEFT))
    assert reasons(found) == ["it shows the middle of the image, and this config another part"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"latents_8x12": None, "latents_9x9": LATENTS.numpy()},
            "it holds no latents of the size that this config needs",
        ),
        ({"original_size_8x12": np.array([201, 128])}, "it was made from an image of another size"),
        ({"latents_8x12": LATENTS.numpy()[:4]}, "its size is not the one that this config needs"),
    ],
)
def test_latents_of_sd_scripts_that_do_not_fit_are_refused(images, changes, reason):
    draw(images)
    kohya_file(images, **changes)
    assert reasons(taken(images, data_set(images))[0]) == [reason]


def test_pixels_that_sd_scripts_sees_otherwise_are_refused(images):
    draw(images, mode="RGBA")
    kohya_file(images)
    assert reasons(taken(images, data_set(images))[0]) == ["the image is transparent, which sd-scripts ignores"]
    turned = Image.Exif()
    turned[0x0112] = 3
    draw(images, exif=turned)
    kohya_file(images)
    found, _ = taken(images, data_set(images))
    assert reasons(found) == ["the image is to be turned when it is shown, which sd-scripts ignores"]


def test_what_is_encoded_already_is_not_replaced(images):
    draw(images)
    kohya_file(images)
    dataset = data_set(images)
    found, cache = taken(images, dataset)
    again = import_latents(images, [dataset], cache, lambda count: None)
    assert found.taken and not again.taken and not again.refused


SHAPE = TextShape(tokens=6, width=5, pooled=4)
TOKENS = torch.arange(30.0).reshape(6, 5) + 1
MASK = torch.tensor([1, 1, 0, 0, 0, 0])


def texts(folder, dataset, prompts=("a red circle", ""), shape=SHAPE):
    cache = PromptCache()
    cache.fill([(TensorCache(MemoryStore(), "r"), prompts)], Lengths(), 1, Recorded(), only=lambda key: False)
    return import_texts(folder, [dataset], cache, shape, lambda count: None), cache


def simpletuner_text(folder, prompt, content=None):
    folder.mkdir(exist_ok=True)
    batched = {
        "prompt_embeds": TOKENS[None],
        "pooled_prompt_embeds": torch.ones(1, 4),
        "time_ids": torch.zeros(6, 3),
        "attention_masks": MASK[None],
    }
    torch.save(batched if content is None else content, folder / f"{md5(prompt.encode()).hexdigest()}-flux.pt")


def kohya_text(images, masked=False, caption="a red circle"):
    (images / "sub" / "a.txt").write_text(caption)
    os.utime(images / "sub" / "a.txt", (time.time() - 1000,) * 2)
    arrays = {
        "l_pooled": np.ones(4),
        "t5_out": TOKENS.numpy(),
        "txt_ids": np.zeros((6, 3)),
        "t5_attn_mask": MASK.numpy(),
    }
    np.savez(images / "sub" / "a_flux_te.npz", **arrays, apply_t5_attn_mask=np.array(masked))


@pytest.mark.parametrize("is_tuple", [True, False])
def test_captions_of_simpletuner_are_taken_over(tmp_path, images, is_tuple):
    old = (TOKENS[None], torch.ones(1, 4), torch.zeros(6, 3), MASK[None]) if is_tuple else None
    for prompt in ("a red circle", ""):
        simpletuner_text(tmp_path / "old", prompt, old)
    found, cache = texts(tmp_path / "old", data_set(images))
    assert found.taken == {"captions of SimpleTuner": 2}
    kept = cache["a red circle"]
    assert torch.equal(kept["prompt_embeds"], TOKENS.bfloat16()) and kept["pooled_prompt_embeds"].shape == (4,)
    assert torch.equal(kept["prompt_mask"], MASK.bool())


def test_padding_is_set_to_zero_where_the_run_asks_for_it(tmp_path, images):
    simpletuner_text(tmp_path / "old", "")
    shape = TextShape(tokens=6, width=5, pooled=4, is_padding_zero=True)
    _, cache = texts(tmp_path / "old", data_set(images), [""], shape)
    found = cache[""]["prompt_embeds"]
    assert torch.equal(found[:2], TOKENS[:2].bfloat16()) and not found[2:].any()


def test_captions_of_sd_scripts_are_taken_over(images):
    draw(images)
    kohya_text(images)
    found, cache = texts(images, data_set(images))
    assert found.taken == {"captions of sd-scripts": 1}
    assert torch.equal(cache["a red circle"]["prompt_embeds"], TOKENS.bfloat16())


def test_captions_that_may_be_something_else_are_refused(tmp_path, images):
    draw(images)
    simpletuner_text(tmp_path / "old", "ohwx")
    found, _ = texts(tmp_path / "old", data_set(images), ["ohwx"])
    assert reasons(found) == ["a caption of one word may have been overwritten by a validation prompt of this name"]
    kohya_text(images, masked=True)
    assert reasons(texts(images, data_set(images))[0]) == [
        "it was made with apply_t5_attn_mask, which gives other numbers"
    ]
    kohya_text(images)
    found, _ = texts(images, data_set(images, captions=("a red circle", "another")))
    assert reasons(found) == ["which of the captions of the image it stands for is not known"]
    os.utime(images / "sub" / "a.txt", (time.time() + 1000,) * 2)
    assert reasons(texts(images, data_set(images))[0]) == ["the caption was changed after it was made"]
    (images / "sub" / "a.txt").unlink()
    assert reasons(texts(images, data_set(images))[0]) == ["the image has no caption file of its own, or several"]


def test_captions_for_another_length_are_refused(tmp_path, images):
    simpletuner_text(tmp_path / "old", "")
    assert reasons(texts(tmp_path / "old", data_set(images), [""], TextShape())[0]) == [
        "it is not of 512 tokens for FLUX.1"
    ]


def test_an_ordinary_run_says_that_old_files_are_there_and_uses_none(tmp_path, images):
    draw(images)
    kohya_file(images)
    simpletuner_file(tmp_path / "old")
    recorded, dataset = Recorded(), data_set(images)
    cache = LatentCache({"one": TensorCache(LocalStore(tmp_path / "old"), "r")})
    cache.fill([dataset], Averages(), 4, recorded)
    places = [text.partition(" ")[0] for text in recorded.texts() if "simpletuner cache import" in text]
    assert places == [str(tmp_path / "old"), str(images)]
    assert not torch.equal(cache.get("one", dataset.records[0])[0], LATENTS)
    simpletuner_text(tmp_path / "texts", "a")
    recorded = Recorded()
    PromptCache().fill([(TensorCache(LocalStore(tmp_path / "texts"), "r"), ["a"])], Lengths(), 1, recorded)
    assert len(recorded.texts()) == 2


def test_old_folders_are_only_read(tmp_path, images):
    draw(images)
    kohya_file(images)
    kohya_text(images)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images.rglob("*") if path.is_file()}
    taken(images, data_set(images))
    texts(images, data_set(images))
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images.rglob("*") if path.is_file()}
    assert before == after
