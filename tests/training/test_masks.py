"""Masks and weights: what is masked out is not learned, and everything else is learned as if there were no mask."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from house import data_set, draw_pictures, run, write_run
from PIL import Image
from safetensors.torch import load_file

from simpletuner.progress import Recorded, StepDone


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw_pictures(tmp_path / "pictures", 6)


def masks(folder: Path, pictures: Path, value: Callable[[int], int]) -> Path:
    """One mask for each picture; `value` gives the grey of each column."""
    folder.mkdir()
    columns = np.array([value(x) for x in range(64)], dtype=np.uint8)
    for path in pictures.glob("*.png"):
        Image.fromarray(np.tile(columns, (64, 1))).save(folder / f"{path.stem}.webp", lossless=True)
    return folder


def masked(pictures: Path, folder: Path, kind: str = "mask") -> list[dict[str, object]]:
    own = data_set("masks", folder, conditioning_type=kind, caption_strategy="filename")
    return [data_set("shapes", pictures, conditioning_data="masks"), own]


def adapter(folder: Path, data: list[dict[str, object]], model: Path, **options: object) -> bytes:
    return run(write_run(folder, data, **options), model)[0].adapter.read_bytes()


def losses(recorded: Recorded) -> list[float]:
    return [event.loss for event in recorded.events if isinstance(event, StepDone)]


def test_a_white_mask_changes_nothing_and_a_black_one_teaches_nothing(
    tmp_path: Path, pictures: Path, model: Path
) -> None:
    plain = adapter(tmp_path / "plain", [data_set("shapes", pictures)], model)
    white = masks(tmp_path / "white", pictures, lambda x: 255)
    assert adapter(tmp_path / "a", masked(pictures, white), model) == plain
    black = masks(tmp_path / "black", pictures, lambda x: 0)
    outcome, recorded = run(write_run(tmp_path / "b", masked(pictures, black)), model)
    assert losses(recorded) == [0.0] * 6
    assert all(not tensor.any() for name, tensor in load_file(outcome.adapter).items() if "lora_B" in name)


def test_a_half_mask_halves_the_loss_of_the_half_and_a_segmentation_counts_whatever_is_not_black(
    tmp_path: Path, pictures: Path, model: Path
) -> None:
    half = masks(tmp_path / "half", pictures, lambda x: 255 if x < 32 else 0)
    faint = masks(tmp_path / "faint", pictures, lambda x: 9 if x < 32 else 0)
    by_mask = adapter(tmp_path / "a", masked(pictures, half), model)
    by_segmentation = adapter(tmp_path / "b", masked(pictures, faint, "segmentation"), model)
    assert by_mask == by_segmentation != adapter(tmp_path / "c", masked(pictures, faint), model)


def test_a_segmentation_is_left_out_as_often_as_asked(tmp_path: Path, pictures: Path, model: Path) -> None:
    black = masks(tmp_path / "black", pictures, lambda x: 0)
    path = write_run(tmp_path / "a", masked(pictures, black, "segmentation"), masked_loss_probability=0.5)
    found = losses(run(path, model, "max_train_steps=24")[1])
    assert 4 <= found.count(0.0) <= 20
    assert all(losses(run(path, model, "masked_loss_probability=0", "output_dir=" + str(tmp_path / "c"))[1]))


def test_transparent_parts_of_an_image_are_not_learned_with_alpha_mask(
    tmp_path: Path, pictures: Path, model: Path
) -> None:
    clear = tmp_path / "clear"
    clear.mkdir()
    for path in sorted(pictures.glob("*.png")):
        image = Image.open(path).convert("RGB")
        image.putalpha(0)
        image.save(clear / path.name)
        (clear / f"{path.stem}.txt").write_text((pictures / f"{path.stem}.txt").read_text())
    _, recorded = run(write_run(tmp_path / "a", [data_set("clear", clear, alpha_mask=True)]), model)
    assert losses(recorded) == [0.0] * 6


def test_prior_data_is_learned_with_its_weight(tmp_path: Path, pictures: Path, model: Path) -> None:
    prior = draw_pictures(tmp_path / "prior", 2, seed=3)
    options = {"is_regularisation_data": True, "regularisation_mode": "prior", "match_count": True}
    data = [data_set("shapes", pictures), data_set("prior", prior, **options, prior_loss_weight=0)]
    found = losses(run(write_run(tmp_path / "a", data), model)[1])
    assert found.count(0.0) == 3  # six of the twelve samples of an epoch are prior data, in batches of two
    data[1]["prior_loss_weight"] = 0.5
    weighted = losses(run(write_run(tmp_path / "b", data), model)[1])
    data[1]["prior_loss_weight"] = 1
    whole = losses(run(write_run(tmp_path / "c", data), model)[1])
    assert weighted[0] in (pytest.approx(whole[0]), pytest.approx(whole[0] / 2))
