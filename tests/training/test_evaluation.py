"""The loss on images that are not trained on: measured when asked, always the same, and without a trace in training."""

from pathlib import Path

import pytest
import torch
from house import data_set, draw_pictures, resolved, run, write_run

from simpletuner.building import build_trainer
from simpletuner.config import load
from simpletuner.errors import ConfigError
from simpletuner.preparation import prepare
from simpletuner.progress import Evaluated, Recorded
from simpletuner.results import Outcome
from simpletuner.selection import Selection
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime


@pytest.fixture
def data(tmp_path: Path) -> list[dict[str, object]]:
    held_out = draw_pictures(tmp_path / "held out", 3, seed=5)
    return [
        data_set("shapes", draw_pictures(tmp_path / "pictures", 6)),
        data_set("held out", held_out, dataset_type="eval"),
    ]


def trained(folder: Path, data: list[dict[str, object]], model: Path, **options: object) -> tuple[Outcome, Recorded]:
    return run(write_run(folder, data, eval_timesteps=3, **options), model)


def measured(recorded: Recorded) -> list[Evaluated]:
    return [event for event in recorded.events if isinstance(event, Evaluated)]


def test_the_loss_is_measured_when_asked_and_training_goes_on_as_if_it_had_not_been(
    tmp_path: Path, data: list[dict[str, object]], model: Path
) -> None:
    plain, _ = trained(tmp_path / "plain", data[:1], model)
    outcome, recorded = trained(tmp_path / "measured", data, model, eval_steps_interval=2)
    assert [event.step for event in measured(recorded)] == [2, 4, 6]
    assert all(list(event.losses) == ["held out"] for event in measured(recorded))
    assert outcome.adapter.read_bytes() == plain.adapter.read_bytes()


def test_the_same_weights_have_the_same_loss_whatever_the_seed_and_the_other_data(
    tmp_path: Path, data: list[dict[str, object]], model: Path
) -> None:
    losses = []
    for number, seed in enumerate((7, 8)):
        draw_pictures(tmp_path / "pictures", 6 + number)
        options = {"seed": seed, "learning_rate": 1e-30, "max_train_steps": 1, "eval_steps_interval": 1}
        losses += [event.losses for event in measured(trained(tmp_path / str(number), data, model, **options)[1])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-7)


class Asked:
    """Stands for a network that always answers zero, and remembers what it was asked."""

    uses_guidance = False

    def __init__(self) -> None:
        self.module = torch.nn.Identity()
        self.seen: list[tuple[torch.Tensor, float]] = []

    def predict(self, noisy: torch.Tensor, sigma: torch.Tensor, *given: object) -> torch.Tensor:
        self.seen += zip(noisy, sigma.tolist(), strict=True)
        return torch.zeros_like(noisy)


def test_an_image_is_measured_in_the_middle_of_equal_parts_of_the_way_each_with_noise_of_its_own(
    tmp_path: Path, data: list[dict[str, object]], model: Path
) -> None:
    options = {"eval_steps_interval": 1, "eval_timesteps": 3, "num_eval_images": 1, "flow_schedule_shift": 2}
    config, runtime = resolved(write_run(tmp_path / "run", data, **options), model), Runtime.start("no", 7)
    prepared, recorded, asked = prepare(config, runtime, Recorded()), Recorded(), Asked()
    found = build_trainer(config, prepared, Checkpoints(tmp_path / "output", 0), runtime, recorded).evaluation
    assert found is not None
    found.measure(asked, 1)
    assert [sigma for _, sigma in asked.seen] == pytest.approx([2 * x / (1 + x) for x in (1 / 6, 3 / 6, 5 / 6)])
    images = [prepared.latents.get("held out", record)[0] for record in prepared.evaluation[0].records]
    noises = [[(noisy - (1 - sigma) * image) / sigma for noisy, sigma in asked.seen] for image in images]
    # Only of the image that was measured, what is left without it is noise: it has no share of the image.
    losses = [
        sum(float((one - image).square().mean()) for one in all) / 3 for all, image in zip(noises, images, strict=True)
    ]
    told = measured(recorded)[0].losses["held out"]
    (own,) = [all for all, loss in zip(noises, losses, strict=True) if loss == pytest.approx(told, rel=1e-4)]
    assert all(float((one - other).abs().max()) > 0.1 for one, other in zip(own, own[1:], strict=False))


def test_several_data_sets_can_be_pooled_or_picked(tmp_path: Path, data: list[dict[str, object]], model: Path) -> None:
    more = [*data, data_set("other", draw_pictures(tmp_path / "other", 2, seed=9), dataset_type="eval")]
    options = {"max_train_steps": 1, "eval_steps_interval": 1, "num_eval_images": 2}
    (each,) = measured(trained(tmp_path / "each", more, model, **options)[1])
    (pooled,) = measured(trained(tmp_path / "pooled", more, model, **options, eval_dataset_pooling=True)[1])
    (picked,) = measured(trained(tmp_path / "picked", more, model, **options, eval_dataset_id="other")[1])
    assert pooled.losses == {"pooled": pytest.approx(sum(each.losses.values()) / 2)}
    assert picked.losses == {"other": each.losses["other"]}


def test_epochs_between_measurements_may_be_fractions(
    tmp_path: Path, data: list[dict[str, object]], model: Path
) -> None:
    _, recorded = trained(tmp_path / "run", data, model, eval_epoch_interval=0.5, num_eval_images=1)
    assert [event.step for event in measured(recorded)] == [2, 4, 6]


def test_epochs_between_measurements_are_as_many_steps_as_their_batches_make(
    tmp_path: Path, data: list[dict[str, object]], model: Path
) -> None:
    # Six images in batches of two: two epochs are six batches, and three of these make a step.
    options = {"gradient_accumulation_steps": 3, "eval_epoch_interval": 2, "num_eval_images": 1, "max_train_steps": 4}
    _, recorded = trained(tmp_path / "run", data, model, **options)
    assert [event.step for event in measured(recorded)] == [2, 4]


def test_a_measurement_without_data_and_data_without_a_measurement_are_told(
    tmp_path: Path, data: list[dict[str, object]], model: Path
) -> None:
    path = write_run(tmp_path / "a", data[:1], eval_steps_interval=2, eval_dataset_id="no")
    with pytest.raises(ConfigError) as error:
        load(Selection(config=str(path)), (), environment={"MODEL": str(model)})
    assert [str(problem) for problem in error.value.problems] == [
        "eval_dataset_id: no eval data set is called 'no'; known are: there is none",
        "eval_steps_interval: there is no data set of dataset_type eval to measure the loss on; add one",
    ]
    reading = load(Selection(config=str(write_run(tmp_path / "b", data))), (), environment={"MODEL": str(model)})
    assert "data set 'held out' is not used: set eval_steps_interval to measure the loss on it" in reading.notices
