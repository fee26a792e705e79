"""Batch number n: what is in it follows from the images, the seed and the numbers of its samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import house
import pytest
import torch
from PIL import Image

from simpletuner import plans
from simpletuner.data.items import Record
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.training.batches import Batches
from simpletuner.training.runtime import Runtime, generator

SEED = 7


class Known:
    """Latents of images that are all alike."""

    def get(self, dataset: str, record: Record) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((16, 8, 8), 3.0), torch.full((16, 8, 8), 0.5)


Make = Callable[..., Batches]


@pytest.fixture
def make(tmp_path: Path, model: Path) -> Make:
    def made(data: list[dict[str, Any]], **options: Any) -> Batches:
        config = house.resolved(house.write_run(tmp_path / "run", data, seed=SEED, **options), model)
        runtime = Runtime.start("no", SEED)
        prepared = prepare(config, runtime, Recorded())
        prepared.close()
        return Batches(
            prepared.datasets, plans.order(config, prepared.datasets, runtime), prepared.prompts, Known(), SEED
        )

    return made


def drawn(purpose: str, samples: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([torch.randn((16, 8, 8), generator=generator(SEED, purpose, one)) for one in samples])


def test_latents_are_drawn_anew_for_each_sample_as_the_encoder_says(make: Make, pictures: Path) -> None:
    batches = make([house.data_set("subject", pictures)])
    for one in (batches.load(0), batches.load(5)):
        assert torch.equal(one.latents, 3 + 0.5 * drawn("posterior", one.samples))
        assert torch.equal(one.noise, drawn("noise", one.samples))
    assert batches.load(5).samples == (10, 11)


def test_a_batch_knows_its_step(make: Make, pictures: Path) -> None:
    batches = make([house.data_set("subject", pictures)], gradient_accumulation_steps=3)
    assert [batches.load(number).step for number in (0, 2, 3, 8, 9)] == [0, 0, 1, 2, 3]


def test_masks_and_transparency_of_an_image_are_both_used_once_and_as_fine_as_they_are(
    make: Make, tmp_path: Path, pictures: Path
) -> None:
    stripes = Image.new("L", (64, 64))
    stripes.putdata([255 if number % 8 < 4 else 0 for number in range(64 * 64)])  # half of each latent
    for path in pictures.glob("*.png"):
        faint, mask = tmp_path / "faint" / path.name, tmp_path / "masks" / path.name
        faint.parent.mkdir(exist_ok=True)
        mask.parent.mkdir(exist_ok=True)
        image = Image.open(path).convert("RGB")
        image.putalpha(128)
        image.save(faint)
        stripes.save(mask)
    given = {"caption_strategy": "filename", "alpha_mask": True}
    alone = make([house.data_set("faint", tmp_path / "faint", **given)]).load(0)
    assert alone.mask is not None and alone.optional_mask is None
    torch.testing.assert_close(alone.mask, torch.full((2, 1, 8, 8), 128 / 255))
    masks = house.data_set(
        "masks", tmp_path / "masks", dataset_type="conditioning", conditioning_type="mask", caption_strategy="filename"
    )
    both = make([house.data_set("faint", tmp_path / "faint", conditioning_data="masks", **given), masks]).load(0)
    assert both.mask is not None
    torch.testing.assert_close(both.mask, torch.full((2, 1, 8, 8), 0.5 * 128 / 255))
