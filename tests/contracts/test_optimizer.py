"""What every optimizer keeps: it learns, and stopping it in the middle changes nothing."""

import pytest
import torch

from simpletuner.errors import ConfigError
from simpletuner.training import optimizers
from simpletuner.training.checkpoint import decode_state, encode_state
from simpletuner.training.optimizers import OPTIMIZERS, Settings

DTYPES = [torch.float32, torch.bfloat16]


def weight(dtype):
    """Large enough (4096 elements) for 8-bit state to be used."""
    return torch.nn.Parameter(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(dtype))


def descend(parameter, optimizer, steps):
    losses = []
    for number in steps:
        torch.manual_seed(number)
        loss = parameter.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_lowers_the_loss(name, dtype):
    parameter = weight(dtype)
    losses = descend(parameter, optimizers.build(name, [parameter], Settings(1e-2)), range(20))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saving_and_loading_in_the_middle_changes_no_bit(name, dtype):
    whole = weight(dtype)
    descend(whole, optimizers.build(name, [whole], Settings(1e-2)), range(6))
    first = weight(dtype)
    optimizer = optimizers.build(name, [first], Settings(1e-2))
    descend(first, optimizer, range(3))
    saved, state = first.detach().clone(), encode_state(optimizer.state_dict())
    second = torch.nn.Parameter(saved)
    optimizer = optimizers.build(name, [second], Settings(1e-2))
    optimizer.load_state_dict(decode_state(state))
    descend(second, optimizer, range(3, 6))
    assert torch.equal(second, whole)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "8bit" in name])
def test_the_eight_bit_forms_keep_eight_bit_state(name):
    parameter = weight(torch.float32)
    optimizer = optimizers.build(name, [parameter], Settings(1e-2))
    descend(parameter, optimizer, range(1))
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8


def test_betas_and_extras_of_the_user_win():
    settings = Settings(1e-3, beta1=0.8, beta2=0.95, extra={"weight_decay": 0.5})
    group = optimizers.build("adamw", [weight(torch.float32)], settings).param_groups[0]
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.8, 0.95), 0.5, 1e-3)


def test_an_unknown_setting_is_named_with_the_optimizer():
    with pytest.raises(ConfigError, match="optimizer_config: .*momentum.*for optimizer 'adamw_bf16'"):
        optimizers.build("adamw_bf16", [weight(torch.float32)], Settings(1e-3, extra={"momentum": 1}))
