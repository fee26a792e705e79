"""Noise levels of models that draw in four steps."""

import torch

from simpletuner.training.four_steps import LEVELS, levels


def test_seven_of_ten_samples_are_pure_noise_and_the_others_are_spread_evenly():
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    found = levels(normal)
    for level, share in ((1.0, 0.7), (0.75, 0.1), (0.5, 0.1), (0.25, 0.1)):
        assert abs(float((found == level).float().mean()) - share) < 0.01


def test_every_normal_number_has_a_level():
    assert set(levels(torch.tensor([-40.0, -8.0, 0.0, 8.0, 40.0])).tolist()) <= set(LEVELS)
    assert levels(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64
