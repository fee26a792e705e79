"""When, how far and along which noise levels the model draws its own training images on."""

import math

import pytest
import torch

from simpletuner.training.objective import rollout
from simpletuner.training.options import Objective


def options(**given):
    named = {f"scheduled_sampling_{name}": value for name, value in given.items()}
    return Objective.model_validate({"scheduled_sampling_max_step_offset": 4, **named})


RAMP = {"prob_start": 0.1, "prob_end": 0.5, "ramp_steps": 100, "start_step": 50}


@pytest.mark.parametrize(
    ("step", "linear", "cosine"),
    [(0, 0, 0), (49, 0, 0), (50, 0.1, 0.1), (75, 0.2, 0.1585786), (100, 0.3, 0.3), (150, 0.5, 0.5), (900, 0.5, 0.5)],
)
def test_the_share_grows_from_its_start_to_its_end(step, linear, cosine):
    assert rollout.share(options(**RAMP), step) == pytest.approx(linear)
    assert rollout.share(options(**RAMP, ramp_shape="cosine"), step) == pytest.approx(cosine)


def test_the_share_without_a_ramp_and_the_start_that_is_not_given():
    assert rollout.share(options(probability=0.3), 10) == 0.3
    assert rollout.share(options(probability=0.3, prob_start=0.0), 10) == 0
    ramp = options(probability=0.3, ramp_steps=10, prob_end=0.5)
    assert [rollout.share(ramp, step) for step in (0, 5, 10)] == pytest.approx([0.3, 0.4, 0.5])
    assert rollout.share(options(max_step_offset=0, probability=0.3), 10) == 0


@pytest.mark.parametrize(
    ("strategy", "shares"),
    [
        ("uniform", [0.25, 0.25, 0.25, 0.25]),
        ("biased_early", [7 / 16, 5 / 16, 3 / 16, 1 / 16]),
        ("biased_late", [1 / 16, 3 / 16, 5 / 16, 7 / 16]),
    ],
)
def test_few_or_many_steps_are_preferred(strategy, shares):
    chances = [(number + 0.5) / 16_000 for number in range(16_000)]
    found = [rollout.length(options(strategy=strategy), chance) for chance in chances]
    assert [found.count(steps) / 16_000 for steps in (1, 2, 3, 4)] == pytest.approx(shares, abs=1e-3)


@pytest.mark.parametrize("shift", [1.0, 3.158])
def test_the_levels_are_those_of_a_picture_in_28_steps(shift):
    def moved(plain):
        return shift * plain / (1 + (shift - 1) * plain)

    sigma = moved(11 / 28)
    assert rollout.way(sigma, shift, 3) == pytest.approx([moved(place / 28) for place in (14, 13, 12, 11)])
    assert rollout.way(sigma, shift, 3)[-1] == sigma
    near = rollout.way(moved(27 / 28), shift, 4)
    assert near == pytest.approx([moved(1 - place / 4 / 28) for place in range(5)])
    assert rollout.way(1.0, shift, 3) == [1.0]


def test_what_drifted_more_counts_more():
    drift = torch.tensor([[[[1.0, -3.0]]], [[[0.0, 0.0]]]])
    found = rollout.drift_weights(options(reflexflow_alpha=2.0), drift)
    assert found.flatten().tolist() == pytest.approx([1.5, 2.5, 1.0, 1.0])


def test_the_error_of_a_direction_does_not_see_its_length():
    random = torch.Generator().manual_seed(0)
    answer, wanted = (torch.randn(3, 2, 4, 4, generator=random) for _ in range(2))
    found = rollout.direction_error(answer, 7 * wanted)
    cosines = [
        float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())) for a, b in zip(answer, wanted, strict=True)
    ]
    assert found.tolist() == pytest.approx([2 - 2 * one for one in cosines], rel=1e-5)
    half = torch.zeros(3, 1, 4, 4)
    half[..., :2] = 1
    shown = rollout.direction_error(answer, wanted, half)
    torch.testing.assert_close(shown, rollout.direction_error(answer[..., :2], wanted[..., :2]))
    assert rollout.direction_error(wanted, 3 * wanted).tolist() == pytest.approx([0] * 3, abs=1e-9)
