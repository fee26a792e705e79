"""What every optimizer keeps: it learns, and stopping it in the middle changes nothing."""

import math

import pytest
import torch

from simpletuner.errors import ConfigError
from simpletuner.training import optimizers
from simpletuner.training.checkpoint import read_state, write_state
from simpletuner.training.fused_backward import UpdatesInBackward, by_weight
from simpletuner.training.optimizers import OPTIMIZERS, Settings

DTYPES = [torch.float32, torch.bfloat16]
SERVED = list(OPTIMIZERS)
AVERAGING = [name for name in SERVED if OPTIMIZERS[name].averages]
ONE_RATE = [name for name in SERVED if OPTIMIZERS[name].has_one_rate]


HIGHER = {
    "adadelta": 100.0,
    "radam_schedulefree": 1.0,
    "sgd": 1.0,
    "adagrad": 0.1,
    "radam": 0.1,
    "ranger": 0.1,
    "soap": 0.05,
    "muon": 0.1,
}


def weights(dtype):
    """A matrix large enough (4096 elements) for 8-bit state to be used, a small one, and a bias."""
    random = torch.Generator().manual_seed(0)
    shapes = [(64, 64), (8, 48), (16,)]
    return [torch.nn.Parameter(torch.randn(shape, generator=random).to(dtype)) for shape in shapes]


def rate_of(name):
    """A learning rate that moves weights of size 1 in twenty steps."""
    if OPTIMIZERS[name].finds_rate:
        return 1.0
    return next((rate for part, rate in HIGHER.items() if part in name), 1e-2)


def made(name, parameters, **extra):
    # A first guess that is not tiny, so that those who look for a rate find it in twenty steps.
    found = {"d0": 1e-2} if OPTIMIZERS[name].finds_rate else {}
    return optimizers.build(name, parameters, Settings(rate_of(name), extra={**found, **extra}))


def descend(parameters, optimizer, steps):
    losses = []
    for number in steps:
        torch.manual_seed(number)
        loss = sum(one.float().square().sum() for one in parameters) / 64
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("name", "dtype"),
    # SOAP's directions are too coarse in bf16; a run trains weights in float32 with it.
    [(name, dtype) for name in SERVED for dtype in DTYPES if (name, dtype) != ("soap", torch.bfloat16)],
)
def test_it_lowers_the_loss(name, dtype):
    parameters = weights(dtype)
    losses = descend(parameters, made(name, parameters), range(20))
    # Those who look for a rate overshoot at first on a loss as steep as this one.
    reached = min(losses) if OPTIMIZERS[name].finds_rate else losses[-1]
    assert reached < 0.9 * losses[0] and all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SERVED)
def test_saving_and_loading_in_the_middle_changes_no_bit(name, dtype, tmp_path):
    whole = weights(dtype)
    descend(whole, made(name, whole), range(12))
    first = weights(dtype)
    optimizer = made(name, first)
    descend(first, optimizer, range(7))
    saved, (before, after) = [one.detach().clone() for one in first], (tmp_path / "before", tmp_path / "after")
    write_state(before, optimizer.state_dict())
    second = [torch.nn.Parameter(one) for one in saved]
    optimizer = made(name, second)
    optimizers.restore(optimizer, read_state(before))
    write_state(after, optimizer.state_dict())
    assert before.read_bytes() == after.read_bytes()
    descend(second, optimizer, range(7, 12))
    assert all(torch.equal(one, other) for one, other in zip(second, whole, strict=True))


@pytest.mark.parametrize("name", [name for name in SERVED if OPTIMIZERS[name].goes_by_weight])
def test_updating_each_weight_by_itself_in_the_backward_pass_changes_no_bit(name):
    whole, inside = weights(torch.float32), weights(torch.float32)
    descend(whole, made(name, whole), range(5))
    optimizer = made(name, by_weight([{"params": inside}]))
    UpdatesInBackward(optimizer, limit=0.0)
    for number in range(5):
        torch.manual_seed(number)
        (sum(one.float().square().sum() for one in inside) / 64).backward()
    assert all(torch.equal(one, other) for one, other in zip(inside, whole, strict=True))


@pytest.mark.parametrize("name", [name for name in SERVED if name not in ONE_RATE])
def test_a_group_with_a_tenth_of_the_rate_moves_less(name):
    slow, fast = weights(torch.float32)[0], weights(torch.float32)[0]
    start = slow.detach().clone()
    optimizer = made(name, [{"params": [slow], "factor": 0.1}, {"params": [fast], "factor": 1.0}])
    for group in optimizer.param_groups:
        group["lr"] = rate_of(name) * group["factor"]
    descend([slow, fast], optimizer, range(8))
    moved, further = float((slow - start).norm()), float((fast - start).norm())
    assert 0 < moved < 0.5 * further


@pytest.mark.parametrize("name", ONE_RATE)
def test_one_rate_for_all_weights_is_said_where_several_are_asked_for(name):
    slow, fast = weights(torch.float32)[:2]
    with pytest.raises(ConfigError, match=f"'{name}' has one learning rate for all weights.*use prodigy"):
        made(name, [{"params": [slow], "factor": 0.1}, {"params": [fast], "factor": 1.0}])


@pytest.mark.parametrize("name", AVERAGING)
def test_what_is_averaged_differs_from_what_is_trained(name):
    parameters = weights(torch.float32)
    optimizer = made(name, parameters)
    descend(parameters, optimizer, range(6))
    trained = [one.detach().clone() for one in parameters]
    optimizer.eval()
    assert not any(torch.equal(one, other) for one, other in zip(parameters, trained, strict=True))


@pytest.mark.parametrize("name", [name for name in SERVED if "8bit" in name])
def test_the_eight_bit_forms_keep_eight_bit_state(name):
    parameters = weights(torch.float32)
    optimizer = made(name, parameters)
    descend(parameters, optimizer, range(1))
    assert optimizer.state[parameters[0]]["state1"].dtype == torch.uint8


def test_muon_leaves_biases_to_adam():
    parameters = weights(torch.float32)
    optimizer = made("muon", parameters)
    descend(parameters, optimizer, range(1))
    assert [sorted(optimizer.state[one]) for one in parameters] == [
        ["momentum_buffer"],
        ["momentum_buffer"],
        ["exp_avg", "exp_avg_sq"],
    ]


def test_the_own_rate_of_biases_in_muon_is_a_factor_that_schedules_keep():
    optimizer = made("muon", weights(torch.float32), adamw_lr=0.02)
    factors = {group["use_muon"]: group["factor"] for group in optimizer.param_groups}
    assert factors == {True: 1.0, False: pytest.approx(0.2)}
    assert {group["factor"] for group in made("muon", weights(torch.float32)).param_groups} == {1.0}


def test_stable_adamw_asks_for_no_kernels_of_a_card_in_main_memory():
    """By itself it takes them where the normal build of torch, which brings Triton along, is used without a card."""
    assert [group["triton"] for group in made("optimi-stableadamw", weights(torch.float32)).param_groups] == [False]


def test_betas_and_extras_of_the_user_win():
    settings = Settings(1e-3, beta1=0.8, beta2=0.95, extra={"weight_decay": 0.5})
    group = optimizers.build("adamw", weights(torch.float32), settings).param_groups[0]
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.8, 0.95), 0.5, 1e-3)


@pytest.mark.parametrize(("name", "third"), [("bnb-ademamix8bit", 0.9999), ("came", 0.9999)])
def test_two_betas_leave_the_third_as_it_was(name, third):
    group = optimizers.build(name, weights(torch.float32), Settings(1e-3, 0.8, 0.95)).param_groups[0]
    assert tuple(group["betas"]) == (0.8, 0.95, third)


def test_three_betas_may_be_given_as_a_list():
    group = optimizers.build("optimi-adan", weights(torch.float32), Settings(1e-3, extra={"betas": [0.9, 0.8, 0.7]}))
    assert [group.param_groups[0][name] for name in ("beta1", "beta2", "beta3")] == [0.9, 0.8, 0.7]


def test_an_unknown_setting_is_named_with_the_optimizer():
    with pytest.raises(ConfigError, match="optimizer_config: .*momentum.*for optimizer 'adamw_bf16'"):
        optimizers.try_out("adamw_bf16", Settings(1e-3, extra={"momentum": 1}))


def test_a_setting_out_of_range_is_named_with_the_optimizer():
    with pytest.raises(ConfigError, match="optimizer_config: .*d0.*for optimizer 'prodigy'"):
        optimizers.try_out("prodigy", Settings(1.0, extra={"d0": -1.0}))
