"""The average follows the weights by its formula, in float32, and the weights never notice."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from simpletuner.errors import CheckpointError
from simpletuner.models.trained import Group
from simpletuner.training.ema import FILE, Average, Averaged, Following

CPU = torch.device("cpu")


class Layer:
    """A layer whose weights are trained and written as they are; with a base of zeros."""

    def __init__(self, dtype=torch.float32):
        torch.manual_seed(0)
        self.module = nn.Linear(3, 2).to(dtype)

    def groups(self):
        return [Group(dict(self.module.named_parameters()))]

    def save(self, folder, metadata):
        torch.save(self.module.state_dict(), folder / "layer.pt")

    def restore(self, folder):
        self.module.load_state_dict(torch.load(folder / "layer.pt", weights_only=True))

    def publish(self, folder, metadata):
        folder.mkdir(exist_ok=True)
        torch.save(self.module.state_dict(), folder / "published.pt")
        return folder / "published.pt"

    def after_step(self):
        return {"inner": 1.0}

    def change(self, step):
        with torch.no_grad():
            for number, weight in enumerate(self.module.parameters()):
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(10 * step + number)))


def averaged(layer, **options):
    return Averaged(layer, Average(dict(layer.module.named_parameters()), CPU, works_there=True), Following(**options))


def written(folder, trained, step):
    folder.mkdir()
    trained.save(folder, {})
    (folder / "training_state.json").write_text(f'{{"global_step": {step}}}')
    return folder


def test_it_keeps_more_of_itself_from_step_to_step_up_to_the_decay():
    following = Following(0.9)
    expected = [0.0] + [min(0.9, (1 + n) / (10 + n)) for n in range(1, 120)]
    assert [following.kept(step) for step in range(1, 121)] == expected
    assert expected[-1] == 0.9 and expected[1] == pytest.approx(2 / 11)


def test_after_a_warm_up_the_decay_holds_as_it_is():
    following = Following(0.9, warmup_steps=3)
    assert [following.kept(step) for step in range(1, 6)] == [0, 0, 0, 0.9, 0.9]


@pytest.mark.parametrize("interval", [1, 3])
def test_it_is_what_the_formula_gives(interval):
    layer = Layer()
    trained = averaged(layer, most=0.8, interval=interval)
    expected = layer.module.weight.detach().double().clone()
    for step in range(1, 13):
        layer.change(step)
        reported = trained.after_step()
        if step % interval == 0:
            kept = 0.0 if step == 1 else min(0.8, step / (9 + step))
            expected = kept * expected + (1 - kept) * layer.module.weight.detach().double()
            assert reported == {"inner": 1.0, "ema_decay_value": pytest.approx(kept)}
        else:
            assert reported == {"inner": 1.0}
    torch.testing.assert_close(trained.average.values()["weight"].double(), expected, rtol=0, atol=1e-6)
    assert not torch.equal(trained.average.values()["weight"], layer.module.weight)


def test_it_follows_weights_of_16_bits_by_less_than_they_can_hold():
    layer = Layer(torch.bfloat16)
    trained = averaged(layer, most=0.9999, warmup_steps=1)
    trained.after_step()
    start = layer.module.weight.detach().float()
    with torch.no_grad():
        layer.module.weight.mul_(1 + 2**-6)
    for _ in range(100):
        trained.after_step()
    value = trained.average.values()["weight"]
    moved = ((value - start) / (layer.module.weight.float() - start)).mean()
    assert value.dtype == torch.float32 and float(moved) == pytest.approx(1 - 0.9999**100, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inside_the_network_works_with_the_average_and_afterwards_the_weights_are_back(dtype):
    layer = Layer(dtype)
    trained = averaged(layer, most=0.9)
    for step in range(1, 5):
        layer.change(step)
        trained.after_step()
    before = {name: one.detach().clone() for name, one in layer.module.named_parameters()}
    kept = {name: value.clone() for name, value in trained.average.values().items()}
    with pytest.raises(RuntimeError, match="on the way"), trained.average.in_place():
        assert all(torch.equal(one, kept[name].to(dtype)) for name, one in layer.module.named_parameters())
        raise RuntimeError("on the way")
    assert all(torch.equal(one, before[name]) for name, one in layer.module.named_parameters())
    assert all(torch.equal(value, kept[name]) for name, value in trained.average.values().items())


def test_it_goes_on_from_what_was_saved_bit_for_bit(tmp_path):
    layer, other = Layer(torch.bfloat16), Layer(torch.bfloat16)
    trained = averaged(layer, most=0.9, interval=2)
    for step in range(1, 4):
        layer.change(step)
        trained.after_step()
    folder = written(tmp_path / "checkpoint-3", trained, 3)
    resumed = averaged(other, most=0.9, interval=2)
    resumed.restore(folder)
    for step in range(4, 9):
        for one, its_layer in ((trained, layer), (resumed, other)):
            its_layer.change(step)
            one.after_step()
    expected, found = trained.average.values(), resumed.average.values()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_result_has_the_average_beside_it(tmp_path):
    layer = Layer()
    trained = averaged(layer, most=0.9)
    for step in range(1, 5):
        layer.change(step)
        trained.after_step()
    assert trained.publish(tmp_path, {}) == tmp_path / "published.pt"
    own, average = torch.load(tmp_path / "published.pt"), torch.load(tmp_path / "ema" / "published.pt")
    assert torch.equal(own["weight"], layer.module.weight)
    assert torch.equal(average["weight"], trained.average.values()["weight"])


def test_checkpoints_of_large_networks_hold_only_what_they_go_on_from(tmp_path):
    layer = Layer()
    average = Average(dict(layer.module.named_parameters()), CPU, works_there=True)
    folder = written(tmp_path / "checkpoint-1", Averaged(layer, average, Following(0.9), is_small=False), 1)
    assert sorted(path.name for path in folder.iterdir()) == [FILE, "layer.pt", "training_state.json"]
    assert load_file(folder / FILE).keys() == {"weight", "bias"}


def test_a_checkpoint_without_an_average_begins_one(tmp_path):
    layer, other = Layer(), Layer()
    layer.change(1)
    folder = written(tmp_path / "checkpoint-7", layer, 7)
    resumed = averaged(other, most=0.9)
    resumed.restore(folder)
    assert torch.equal(resumed.average.values()["weight"], layer.module.weight)
    assert resumed.after_step()["ema_decay_value"] == pytest.approx(8 / 17)


def test_an_average_of_other_weights_is_refused(tmp_path):
    layer, other = Layer(), Layer()
    folder = written(tmp_path / "checkpoint-1", averaged(layer, most=0.9), 1)
    larger = Averaged(other, Average({"weight": nn.Parameter(torch.zeros(9))}, CPU, works_there=True), Following(0.9))
    with pytest.raises(CheckpointError, match=r"has an average \(EMA\) of other weights than this run trains"):
        larger.restore(folder)
