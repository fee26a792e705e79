"""Where guidance leads: by how much, from which step on, and over which part of the way."""

from dataclasses import dataclass, field

import pytest
import torch

from simpletuner.models.family import SamplingSchedule
from simpletuner.models.sampling import Course, Guidance, sample

LEVELS = SamplingSchedule((1.0, 0.75, 0.5, 0.25, 0.0))
WORDS, NEGATIVE = {"says": torch.tensor(1.0)}, {"says": torch.tensor(-2.0)}


@dataclass
class Saying:
    """A denoiser that says the same everywhere, as the prompt has it, and remembers what it was told."""

    uses_guidance: bool = False
    blocks: tuple[torch.nn.Module, ...] = ()
    told: list[tuple[float, float | None]] = field(default_factory=list)

    def predict(self, noisy, sigma, conditioning, guidance):
        """The number of the prompt."""
        self.told.append((float(sigma[0]), None if guidance is None else float(guidance[0])))
        return torch.full_like(noisy, float(conditioning["says"]))


def moved(guidance, negative=None, denoiser=None):
    """How far a pixel went."""
    end = sample(denoiser or Saying(), torch.zeros(1, 16, 2, 2), WORDS, negative, Course(LEVELS), guidance)
    return float(end.mean())


@pytest.mark.parametrize(
    ("guidance", "velocities"),
    [
        (Guidance(real=1.0), [1, 1, 1, 1]),
        (Guidance(real=3.0), [7, 7, 7, 7]),  # -2 + 3 * (1 - -2)
        (Guidance(real=3.0, real_from=1), [1, 7, 7, 7]),
        (Guidance(real=3.0, real_from=3), [1, 1, 1, 7]),
    ],
)
def test_real_guidance_leads_away_from_the_negative_prompt_from_its_step_on(guidance, velocities):
    assert moved(guidance, NEGATIVE) == pytest.approx(-sum(velocities) * 0.25)


def test_the_embedded_value_is_told_to_networks_that_take_it_and_to_no_others():
    for uses_guidance, value in ((True, 2.5), (False, None)):
        denoiser = Saying(uses_guidance)
        moved(Guidance(embedded=2.5), denoiser=denoiser)
        assert denoiser.told == [(sigma, value) for sigma in LEVELS.sigmas[:-1]]


@pytest.mark.parametrize(
    ("strength", "first"), [(1.0, 1.0), (0.75, 0.75), (0.6, 0.5), (0.25, 0.25), (0.0, 0.25), (2.0, 1.0)]
)
def test_a_share_of_the_way_is_its_last_part_and_never_nothing(strength, first):
    assert Course(LEVELS).shortened(strength).schedule.sigmas == LEVELS.sigmas[LEVELS.sigmas.index(first) :]


def test_whoever_looks_on_sees_the_image_that_is_expected_after_each_step():
    seen = []
    course = Course(LEVELS, watch=lambda step, expected: seen.append((step, float(expected.mean()))))
    sample(Saying(), torch.zeros(1, 16, 2, 2), WORDS, None, course, Guidance())
    # All along a straight way, the same end is expected.
    assert seen == [(1, -1.0), (2, -1.0), (3, -1.0), (4, -1.0)]
