"""Losses by the formulas of the references, with a bend that really follows the noise level."""

import math

import pytest
import torch

from simpletuner.training.objective import losses, weighting
from simpletuner.training.objective.path import PREDICTIONS, slowed
from simpletuner.training.options import Objective

SIGMA = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])


def made(seed=0):
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(5, 3, 4, 6, dtype=torch.float64, generator=random) for _ in range(2))


def bend(schedule, sigma, size=0.1, scale=1.0):
    return (
        scale
        * {
            "constant": lambda: size,
            "exponential": lambda: math.exp(math.log(size) * sigma),
            "snr": lambda: (1 - size) / (1 + (sigma / (1 - sigma) if sigma < 1 else math.inf)) ** 2 + size,
        }[schedule]()
    )


@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("name", ["huber", "smooth_l1"])
def test_huber_losses_equal_their_formulas_at_every_noise_level(name, schedule, scale):
    options = Objective.model_validate({"loss_type": name, "huber_schedule": schedule, "huber_scale": scale})
    prediction, target = made()
    found = losses.distances(options, prediction, target, SIGMA)
    for one, other, sigma, loss in zip(prediction, target, SIGMA.tolist(), found, strict=True):
        c = bend(schedule, sigma, scale=scale)
        wanted = 2 * (c if name == "huber" else 1) * (torch.sqrt((one - other) ** 2 + c**2) - c)
        torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12)


def test_the_exponential_schedule_has_the_values_of_the_reference():
    found = losses.HUBER_SCHEDULES["exponential"](0.1, SIGMA.double())
    assert found.tolist() == pytest.approx([1, 0.562, 0.316, 0.178, 0.1], abs=5e-4)


def test_the_plain_losses_are_the_square_and_the_size_of_the_difference():
    prediction, target = made()
    for name, wanted in (("l2", (prediction - target) ** 2), ("l1", (prediction - target).abs())):
        found = losses.distances(Objective(loss_type=name), prediction, target, SIGMA)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_loss_is_taken_in_float32_and_keeps_small_differences(name):
    target = torch.zeros(5, 1, 2, 2, dtype=torch.bfloat16)
    found = losses.distances(Objective(loss_type=name), target + 1e-4, target, SIGMA)
    wide = losses.distances(Objective(loss_type=name), (target + 1e-4).double(), target.double(), SIGMA)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wide, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_perfect_answer_has_no_loss_and_no_gradient(name):
    _, target = made()
    prediction = target.clone().requires_grad_()
    loss = losses.distances(Objective(loss_type=name), prediction, target, SIGMA).mean()
    loss.backward()
    assert float(loss.detach()) == 0 and not prediction.grad.any()


def test_a_mask_by_area_makes_the_mean_over_what_it_shows():
    distances, _ = made()
    mask = torch.zeros(5, 1, 4, 6, dtype=torch.float64)
    mask[:, :, :2, :3] = 1
    mask[1] *= 0.5
    mask[2] = 0
    by_area, plain = losses.mean(distances, mask, by_area=True), losses.mean(distances, mask)
    for number in (0, 1, 3, 4):
        assert float(by_area[number]) == pytest.approx(float(distances[number, :, :2, :3].mean()), rel=1e-12)
    assert float(by_area[2]) == 0
    assert float(plain[0]) == pytest.approx(float(by_area[0]) / 4, rel=1e-12)
    assert float(plain[1]) == pytest.approx(float(by_area[1]) / 8, rel=1e-12)
    torch.testing.assert_close(losses.mean(distances, torch.ones_like(mask), by_area=True), losses.mean(distances))


def test_prediction_modes_are_those_of_sd_scripts():
    answer, noisy = made()
    sigma = SIGMA.double().view(-1, 1, 1, 1)
    wanted = {"raw": answer, "additive": answer + noisy, "sigma_scaled": noisy - sigma * answer}
    assert set(wanted) == set(PREDICTIONS)
    for name, one in wanted.items():
        torch.testing.assert_close(PREDICTIONS[name](answer, noisy, SIGMA), one, rtol=1e-12, atol=0)


def test_a_perfect_flux_has_a_large_loss_with_the_default_of_sd_scripts():
    random = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(400, 1, 8, 8, generator=random) for _ in range(2))
    sigma = torch.rand(400, generator=random)
    noisy = (1 - sigma.view(-1, 1, 1, 1)) * image + sigma.view(-1, 1, 1, 1) * noise
    answer = PREDICTIONS["sigma_scaled"](noise - image, noisy, sigma)
    assert float(((answer - (noise - image)) ** 2).mean()) == pytest.approx(5, rel=0.05)


def test_loss_weights_of_sd_scripts_count_only_with_its_prediction_mode():
    def weights(scheme, mode="sigma_scaled"):
        found = {"flow_weighting_scheme": scheme, "flow_prediction_mode": mode}
        return weighting.weights(Objective.model_validate(found), SIGMA.double())

    assert (
        weights("sigma_sqrt", "raw") is weights("cosmap", "additive") is weights("uniform") is weights("mode") is None
    )
    assert weights("sigma_sqrt").tolist() == pytest.approx([1e6, 16, 4, 16 / 9, 1])
    cosmap = [2 / (math.pi * (1 - 2 * one + 2 * one**2)) for one in SIGMA.tolist()]
    assert weights("cosmap").tolist() == pytest.approx(cosmap)


def test_a_slowed_way_lies_between_the_level_that_is_told_and_noise():
    found = slowed(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.5, 0.7]), 0.8)
    assert found.tolist() == pytest.approx([0.8, 0.7, 1.0])
