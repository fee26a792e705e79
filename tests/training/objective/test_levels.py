"""Noise levels: every form is the distribution that its name says, and the same sample has the same level for ever."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from simpletuner.training.objective import beta, curve
from simpletuner.training.objective.levels import Chances, drawn
from simpletuner.training.options import Objective

MANY = 50_000


def levels(count=MANY, *, shift=1.0, offset=0.0, dtype=torch.float32, **options):
    normal = torch.randn(count, generator=torch.Generator().manual_seed(1)).to(dtype)
    return drawn(Objective.model_validate(options), Chances(normal, range(count), offset), shift)


def normals(count=MANY):
    return torch.randn(count, generator=torch.Generator().manual_seed(1)).double().tolist()


def farthest(found, cumulative):
    """The largest distance between the shares of samples below a level, and those that there should be (Kolmogorov)."""
    ordered = np.sort(np.asarray(found, dtype=np.float64))
    ranks = np.arange(1, len(ordered) + 1) / len(ordered)
    return float(np.abs(ranks - cumulative(ordered)).max())


ALIKE = 1.63 / math.sqrt(MANY)
"""One of a hundred right samples would be farther away."""


def shift_back(sigma, shift):
    return sigma / (shift - (shift - 1) * sigma)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_uniform_levels_are_uniform_before_the_shift(shift):
    found = levels(shift=shift, flow_use_uniform_schedule=True)
    assert found.dtype == torch.float32
    assert farthest(found, lambda x: shift_back(x, shift)) < ALIKE


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1.5, 0.0), (1.0, 0.8), (2.0, -0.5)])
def test_sigmoid_levels_are_logit_normal_around_the_offset_of_the_data_set(scale, offset):
    found = levels(flow_sigmoid_scale=scale, offset=offset)
    logit = NormalDist(offset * scale, scale)
    expected = np.vectorize(lambda x: logit.cdf(math.log(x / (1 - x))))
    assert farthest(found, expected) < ALIKE
    exact = [1 / (1 + math.exp(-scale * (one + offset))) for one in normals(100)]
    assert levels(100, flow_sigmoid_scale=scale, offset=offset).tolist() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("alpha", "over"), [(2, 2), (5, 1), (1, 3), (3, 7)])
def test_beta_levels_follow_the_sums_of_binomials_that_whole_parameters_have(alpha, over):
    options = {"flow_use_beta_schedule": True, "flow_beta_schedule_alpha": alpha, "flow_beta_schedule_beta": over}
    found = levels(500, **options).double().numpy()
    count = alpha + over - 1
    below = sum(math.comb(count, k) * found**k * (1 - found) ** (count - k) for k in range(alpha, count + 1))
    assert below.tolist() == pytest.approx([NormalDist().cdf(one) for one in normals(500)], abs=2e-6)


@pytest.mark.parametrize(("alpha", "over"), [(0.5, 0.5), (0.3, 2.5), (1.7, 0.9), (60.5, 40.25)])
def test_beta_levels_of_other_parameters_follow_the_integral_of_the_density(alpha, over):
    for share in (0.01, 0.3, 0.77, 0.999):
        level = beta.quantile(share, alpha, over)
        # With x = sin^2 the ends of the interval, where the density may be infinite, lose their sting.
        angles, weights = np.polynomial.legendre.leggauss(200)
        assert _area(math.asin(math.sqrt(level)), alpha, over, angles, weights) == pytest.approx(share, rel=1e-3)


def _area(until, alpha, over, angles, weights):
    def integral(end):
        # A sixth power in front of the angle makes even x^-0.7 smooth at its beginning.
        u = (angles + 1) / 2
        theta = end * u**6
        inner = 2 * np.sin(theta) ** (2 * alpha - 1) * np.cos(theta) ** (2 * over - 1) * end * 6 * u**5
        return float((weights * inner).sum() / 2)

    whole = math.exp(math.lgamma(alpha) + math.lgamma(over) - math.lgamma(alpha + over))
    return integral(until) / whole


def test_beta_levels_are_those_that_torch_draws():
    options = {"flow_beta_schedule_alpha": 2.5, "flow_beta_schedule_beta": 0.7}
    found = levels(4_000, flow_use_beta_schedule=True, **options)
    torch.manual_seed(3)
    other = torch.distributions.Beta(2.5, 0.7).sample((MANY,)).double().sort().values.numpy()
    assert farthest(found, lambda x: np.searchsorted(other, x) / MANY) < 3.8 * ALIKE


def test_cubic_levels_follow_a_curve_through_the_weights():
    weights = [0.0, 1.0, 4.0, 4.0, 2.0]
    places = np.linspace(0, 1, 5)
    assert curve.density(places, weights).tolist() == pytest.approx(weights)
    grid = np.linspace(0, 1, 40_001)
    heights = _by_hermite(grid, weights)
    assert curve.density(grid, weights) == pytest.approx(heights, abs=1e-12)
    assert heights.min() >= 0 and heights.max() <= 4 + 1e-12
    sums = np.cumsum(heights) / heights.sum()
    found = levels(flow_cubic_schedule_weights=weights)
    assert farthest(found, lambda x: np.interp(x, grid, sums)) < ALIKE
    exact = np.interp([NormalDist().cdf(one) for one in normals(200)], sums, grid)
    assert levels(200, flow_cubic_schedule_weights="0,1,4,4,2").tolist() == pytest.approx(exact.tolist(), abs=1e-4)


@pytest.mark.parametrize("options", [{"flow_cubic_schedule_weights": [1, 3, 2]}, {"flow_use_beta_schedule": True}])
def test_levels_of_a_curve_and_of_a_beta_distribution_are_moved_by_the_shift(options):
    plain, moved = levels(100, **options), levels(100, shift=3.0, **options)
    assert shift_back(moved, 3.0).tolist() == pytest.approx(plain.tolist(), abs=1e-6)
    assert float((moved - plain).min()) > 0


def _by_hermite(places, weights):
    """Fritsch and Butland's curve, written out piece by piece in the Hermite basis."""
    count = len(weights) - 1
    rises = [(weights[i + 1] - weights[i]) * count for i in range(count)]
    slopes = [0.0] * (count + 1)
    for i in range(1, count):
        if rises[i - 1] * rises[i] > 0:
            slopes[i] = 2 / (1 / rises[i - 1] + 1 / rises[i])
    found = []
    for place in places.tolist():
        i = min(int(place * count), count - 1)
        t, h = place * count - i, 1 / count
        left = (1 + 2 * t) * (1 - t) ** 2 * weights[i] + t * (1 - t) ** 2 * h * slopes[i]
        found.append(left + t * t * (3 - 2 * t) * weights[i + 1] + t * t * (t - 1) * h * slopes[i + 1])
    return np.array(found)


def test_a_list_of_levels_is_drawn_from_evenly_and_not_shifted():
    found = levels(shift=3.0, flow_custom_timesteps="1000, 500, 250, 125")
    for level in (1.0, 0.5, 0.25, 0.125):
        assert float((found == level).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert sorted(set(levels(100, flow_custom_timesteps=[0.2, 1]).tolist())) == pytest.approx([0.2, 1.0])


def test_a_list_of_levels_taken_in_turn_goes_by_the_number_of_the_sample():
    options = Objective.model_validate({"flow_custom_timesteps": [0.25, 0.5, 1], "flow_timesteps_mode": "round-robin"})
    found = drawn(options, Chances(torch.zeros(4), (7, 8, 9, 10)), 1.0)
    assert found.tolist() == [0.5, 1.0, 0.25, 0.5]


def test_mixflow_draws_clean_images_more_often():
    found = levels(shift=3.0, mixflow_enabled=True)
    assert farthest(found, lambda x: 1 - (1 - shift_back(x, 3.0)) ** 2) < ALIKE


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("scheme", "options", "place"),
    [
        ("uniform", {}, lambda n, u: u),
        ("none", {}, lambda n, u: u),
        ("sigma_sqrt", {}, lambda n, u: u),
        (
            "logit_normal",
            {"flow_logit_mean": 0.5, "flow_logit_std": 1.3},
            lambda n, u: 1 / (1 + math.exp(-0.5 - 1.3 * n)),
        ),
        ("mode", {}, lambda n, u: 1 - u - 1.29 * (math.cos(math.pi * u / 2) ** 2 - 1 + u)),
        ("mode", {"flow_mode_scale": -1}, lambda n, u: 1 - u + (math.cos(math.pi * u / 2) ** 2 - 1 + u)),
    ],
)
def test_the_table_of_sd_scripts_is_looked_up_from_noise_to_clean_images(shift, scheme, options, place):
    given = {"flow_timestep_sampling": "sigma", "flow_weighting_scheme": scheme, **options}
    table = [shift * i / 1000 / (1 + (shift - 1) * i / 1000) for i in range(1000, 0, -1)]
    wanted = [table[math.floor(1000 * place(one, NormalDist().cdf(one)))] for one in normals(3_000)]
    found = levels(3_000, shift=shift, **given).tolist()
    near = [abs(one - other) < 1e-6 for one, other in zip(found, wanted, strict=True)]
    assert sum(near) >= 2_998  # one on the edge between two entries may fall to either side


@pytest.mark.parametrize("name", ["sigmoid", "shift", "flux_shift"])
def test_other_names_of_sd_scripts_draw_around_the_middle(name):
    assert levels(9, shift=3.0, flow_timestep_sampling=name).tolist() == levels(9, shift=3.0).tolist()
    assert levels(9, flow_timestep_sampling="uniform").tolist() == levels(9, flow_use_uniform_schedule=True).tolist()


def test_limits_squeeze_the_levels_behind_the_shift():
    plain, found = levels(100, shift=3.0), levels(100, shift=3.0, min_timestep=200, max_timestep=700)
    assert found.tolist() == pytest.approx([0.2 + 0.5 * one for one in plain.tolist()], rel=1e-6)


def test_the_first_form_wins_in_the_order_of_simpletuner():
    both = {"flow_use_uniform_schedule": True, "flow_use_beta_schedule": True, "flux_fast_schedule": True}
    uniform = levels(9, flow_use_uniform_schedule=True).tolist()
    assert levels(9, **both).tolist() == uniform
    assert set(levels(200, **both, flow_custom_timesteps=[0.5]).tolist()) == {0.5}
    assert set(levels(200, shift=3.0, flux_fast_schedule=True).tolist()) == {1.0, 0.75, 0.5, 0.25}
