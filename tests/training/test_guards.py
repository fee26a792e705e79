"""What is not a finite number never reaches the weights; jumps of the loss are told with their images and a remedy."""

from dataclasses import dataclass

import pytest

from simpletuner.errors import TrainingError
from simpletuner.progress import Recorded
from simpletuner.training.guards import Guards

NAN = float("nan")
ADVICE = ("a lower learning_rate", "lr_warmup_steps: 100")


@dataclass(frozen=True)
class Worked:
    """A batch."""

    loss: float
    dataset: str = "subject"
    keys: tuple[str, ...] = ("a.png", "b.png")


def guards(action="stop", spike=10.0):
    recorded = Recorded()
    return Guards(action, spike, recorded, ADVICE), recorded


def test_a_loss_that_is_not_finite_names_step_images_data_set_and_remedy():
    watching, _ = guards()
    good = Worked(0.5, "style", ("c.png",))
    told = r"the loss of step 7 .* were a.png, b.png of data set 'subject'\. What would help, cheapest first: a lower"
    with pytest.raises(TrainingError, match=told) as error:
        watching.admit(7, [good, Worked(NAN)], NAN)
    assert "c.png" not in str(error.value)


def test_a_gradient_that_is_not_finite_names_everything_it_came_from():
    watching, _ = guards()
    told = "the gradient of step 7 .* a.png, b.png of data set 'subject', and c.png of data set 'style'"
    with pytest.raises(TrainingError, match=told):
        watching.admit(7, [Worked(0.5), Worked(0.5, "style", ("c.png",))], float("inf"))


def test_steps_can_be_left_out_instead_but_not_for_ever():
    watching, recorded = guards("skip")
    assert watching.admit(1, [Worked(1.0)], 1.0)
    for step in range(2, 11):
        assert not watching.admit(step, [Worked(NAN)], NAN)
    assert len(recorded.texts()) == 9 and recorded.texts()[0].endswith("The step is left out.")
    with pytest.raises(TrainingError, match="and so were the 9 steps before, all left out. What would help"):
        watching.admit(11, [Worked(NAN)], NAN)


def test_a_good_step_in_between_starts_the_count_anew():
    watching, _ = guards("skip")
    for step in range(1, 60):
        watching.admit(step, [Worked(1.0 if step % 7 == 0 else NAN)], 1.0)


def test_a_jump_of_the_loss_is_told_once_with_what_would_help():
    watching, recorded = guards(spike=10.0)
    for step in range(1, 31):
        watching.admit(step, [Worked(0.5 + step % 3 * 0.1)], 1.0)
    assert recorded.texts() == []
    for step in range(31, 40):
        watching.admit(step, [Worked(30.0)], 1.0)
    (text,) = recorded.texts()
    assert text.startswith("the loss of step 31 jumped to 30, from 0.6 before; the images were a.png, b.png")
    assert "a lower learning_rate; lr_warmup_steps: 100" in text


@pytest.mark.parametrize(("spike", "loss"), [(0.0, 1000.0), (10.0, 5.0), (100.0, 50.0)])
def test_less_than_the_factor_or_no_factor_tells_nothing(spike, loss):
    watching, recorded = guards(spike=spike)
    for step in range(1, 31):
        watching.admit(step, [Worked(1.0)], 1.0)
    watching.admit(31, [Worked(loss)], 1.0)
    assert recorded.texts() == []
