"""Other noise: offsets, coarse layers and perturbed inputs equal their formulas, and depend on the sample alone."""

import math

import pytest
import torch
from torch.nn.functional import interpolate

from simpletuner.training.draws import Draws
from simpletuner.training.objective import noise
from simpletuner.training.options import Objective
from simpletuner.training.runtime import generator

SAMPLES = range(20, 24)
SHAPE = (16, 12, 20)


def made():
    random = torch.Generator().manual_seed(0)
    return (torch.randn(len(SAMPLES), *SHAPE, generator=random) for _ in range(2))


def options(**given):
    return Objective.model_validate(given)


def draw(purpose, sample, *shape, even=False):
    dice = generator(7, purpose, sample)
    return torch.rand(*shape, generator=dice) if even else torch.randn(*shape, generator=dice)


def test_plain_noise_stays_as_it_is():
    given, image = made()
    assert noise.prepared(options(), given, image, Draws(7, SAMPLES)) is given
    assert noise.perturbed(options(), given, Draws(7, SAMPLES), 0) is given


@pytest.mark.parametrize("is_random", [False, True])
@pytest.mark.parametrize("adaptive", [0.0, 0.5, -4.0])
def test_offset_noise_adds_one_number_to_each_channel(is_random, adaptive):
    given, image = made()
    chosen = options(
        offset_noise=True,
        noise_offset=0.2,
        noise_offset_probability=1.0,
        noise_offset_random_strength=is_random,
        adaptive_noise_scale=adaptive,
    )
    found = noise.prepared(chosen, given, image, Draws(7, SAMPLES))
    for place, sample in enumerate(SAMPLES):
        # As in sd-scripts: the strength is drawn first, and the brightness of the channel is added as it is.
        strength = 0.2 * (draw("noise offset strength", sample, 1, even=True) if is_random else torch.ones(1))
        strength = (strength + adaptive * image[place].mean((1, 2), keepdim=True).abs()).clamp(min=0)
        wanted = given[place] + strength * draw("noise offset", sample, 16, 1, 1)
        torch.testing.assert_close(found[place], wanted)


def test_offset_noise_is_used_for_its_share_of_samples():
    given = torch.zeros(2_000, 1, 1, 1)
    found = noise.prepared(options(offset_noise=True), given, given, Draws(7, range(2_000)))
    assert float((found != 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(found[found != 0].std()) == pytest.approx(0.1, rel=0.1)


def test_coarse_layers_are_added_until_one_is_a_pixel_wide():
    given, image = made()
    chosen = options(multires_noise_iterations=6, multires_noise_discount=0.4)
    found = noise.prepared(chosen, given, image, Draws(7, SAMPLES))
    for place, sample in enumerate(SAMPLES):
        dice, wanted, layers = generator(7, "coarse noise", sample), given[place], 0
        for layer in range(6):
            ratio = 2 + 2 * float(torch.rand(1, generator=dice))
            height, width = max(1, math.floor(12 / ratio**layer)), max(1, math.floor(20 / ratio**layer))
            grain = torch.randn(1, 16, height, width, generator=dice)
            wanted = wanted + 0.4**layer * interpolate(grain, size=(12, 20), mode="bilinear")[0]
            layers += 1
            if height == 1 or width == 1:
                break
        torch.testing.assert_close(found[place], wanted / wanted.std())
        assert 2 <= layers <= 4
    assert found.std((1, 2, 3)).tolist() == pytest.approx([1.0] * 4)


def test_coarse_layers_put_strength_into_large_shapes():
    given, image = made()
    found = noise.prepared(
        options(multires_noise_iterations=8, multires_noise_discount=0.8), given, image, Draws(7, SAMPLES)
    )

    def coarse(one):
        return float(one.mean((2, 3)).std())

    assert coarse(found) > 2 * coarse(given)


@pytest.mark.parametrize(("step", "strength"), [(0, 0.2), (25, 0.15), (50, 0.1), (99, 0.002), (100, 0.0), (500, 0.0)])
def test_a_perturbation_of_the_input_fades_away_in_a_straight_line(step, strength):
    chosen = options(input_perturbation=0.2, input_perturbation_steps=100)
    given, _ = made()
    found = noise.perturbed(chosen, given, Draws(7, SAMPLES), step)
    wanted = torch.stack([draw("input perturbation", sample, *SHAPE) for sample in SAMPLES])
    torch.testing.assert_close(found, given + strength * wanted)


def test_a_perturbation_can_have_a_random_strength_for_each_sample():
    given, _ = made()
    chosen = options(input_perturbation=0.2, input_perturbation_random=True)
    found = noise.perturbed(chosen, given, Draws(7, SAMPLES), 9)
    for place, sample in enumerate(SAMPLES):
        strength = 0.2 * float(draw("input perturbation strength", sample, 1, even=True))
        torch.testing.assert_close(found[place], given[place] + strength * draw("input perturbation", sample, *SHAPE))


def test_the_noise_of_a_sample_does_not_depend_on_its_batch():
    given, image = made()
    chosen = options(
        offset_noise=True, noise_offset_probability=0.5, multires_noise_iterations=3, input_perturbation=0.1
    )

    def whole(samples, places):
        draws = Draws(7, samples)
        return noise.perturbed(chosen, noise.prepared(chosen, given[places], image[places], draws), draws, 0)

    together = whole(SAMPLES, slice(None))
    for place, sample in enumerate(SAMPLES):
        assert torch.equal(whole([sample], slice(place, place + 1))[0], together[place])
