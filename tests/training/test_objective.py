"""Flow matching by the formulas of the reference."""

import math

import pytest
import torch

from simpletuner.models.families import FAMILIES
from simpletuner.training import objective


@pytest.mark.parametrize(("edge", "shift"), [(512, 1.878), (768, 2.332), (1024, 3.158), (1280, 4.665), (2048, 25.28)])
def test_the_automatic_shift_follows_the_resolution(edge, shift):
    assert FAMILIES["flux"].automatic_shift(edge // 8, edge // 8) == pytest.approx(shift, rel=5e-4)


def test_a_shift_of_one_changes_nothing_and_a_larger_one_moves_towards_noise():
    sigma = torch.linspace(0, 1, 11)
    torch.testing.assert_close(objective.shifted(sigma, 1.0), sigma)
    assert (objective.shifted(sigma, 3.0)[1:-1] > sigma[1:-1]).all()
    assert objective.shifted(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)


def test_noise_levels_are_logit_normal():
    sigma = objective.logit_normal(torch.randn(100_000, generator=torch.Generator().manual_seed(0)), 1.0)
    assert sigma.mean().item() == pytest.approx(0.5, abs=5e-3)
    assert (sigma < 1 / (1 + math.e)).float().mean().item() == pytest.approx(0.1587, abs=5e-3)


def test_the_path_goes_straight_from_image_to_noise():
    image, noise = torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1)
    sigma = torch.tensor([0.0, 0.25, 1.0])
    assert objective.noised(image, noise, sigma).flatten().tolist() == [0.0, 0.25, 1.0]
    assert objective.velocity(image, noise).flatten().tolist() == [1.0, 1.0, 1.0]


def test_the_loss_is_taken_in_float32_for_each_sample():
    prediction = torch.zeros(2, 1, 2, 2, dtype=torch.bfloat16)
    target = torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 3.0)])
    loss = objective.squared_error(prediction, target)
    assert loss.dtype == torch.float32 and loss.tolist() == [1.0, 9.0]
