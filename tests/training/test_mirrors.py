"""With flip_aug, half of the uses of an image have left and right swapped, and its mask with it."""

from pathlib import Path

import numpy as np
import pytest
from house import data_set, draw_pictures, resolved, run, write_run
from PIL import Image

from simpletuner import plans
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.training.batches import Batches
from simpletuner.training.runtime import Runtime


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw_pictures(tmp_path / "pictures", 3)


def batches(path: Path, model: Path) -> Batches:
    config, runtime = resolved(path, model), Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    order = plans.order(config, prepared.datasets, runtime)
    return Batches(prepared.datasets, order, prepared.prompts, prepared.latents, runtime.seed)


def test_each_image_is_seen_both_ways_about_equally_often_and_its_mask_with_it(
    tmp_path: Path, pictures: Path, model: Path
) -> None:
    (tmp_path / "masks").mkdir()
    half = np.zeros((64, 64), dtype=np.uint8)
    half[:, :32] = 255
    for path in pictures.glob("*.png"):
        Image.fromarray(half).save(tmp_path / "masks" / path.name)
    data = [
        data_set("shapes", pictures, flip_aug=True, train_batch_size=1, conditioning_data="masks"),
        data_set("masks", tmp_path / "masks", conditioning_type="mask"),
    ]
    found = batches(write_run(tmp_path / "run", data), model)
    seen: dict[tuple[str, bool], set[bytes]] = {}
    count = 0
    for number in range(60):
        batch = found.load(number)
        assert batch.mask is not None
        left, right = batch.mask[..., : batch.mask.shape[-1] // 2].mean(), batch.mask.mean() * 2
        is_mirrored = bool(left < 0.5)
        assert float(right) == 1
        count += is_mirrored
        mean = found._latents.get("shapes", found._datasets[0].records.at(0, mirrored=is_mirrored))[0]
        seen.setdefault((batch.keys[0], is_mirrored), set()).add(mean.numpy().tobytes())
    assert 18 <= count <= 42
    assert len(seen) == 6
    for key in ("000.png", "001.png", "002.png"):
        assert seen[key, True] != seen[key, False]


def test_a_run_with_mirrored_images_ends_and_without_them_is_another_one(
    tmp_path: Path, pictures: Path, model: Path
) -> None:
    mirrored, _ = run(write_run(tmp_path / "a", [data_set("shapes", pictures, flip_aug=True)]), model)
    again, _ = run(write_run(tmp_path / "b", [data_set("shapes", pictures, flip_aug=True)]), model)
    plain, _ = run(write_run(tmp_path / "c", [data_set("shapes", pictures)]), model)
    assert mirrored.adapter.read_bytes() == again.adapter.read_bytes() != plain.adapter.read_bytes()
