"""adamw_bf16 is AdamW in float32, and follows it closely in bf16 where plain rounding would stand still."""

import torch

from simpletuner.training.adamw_bf16 import AdamWBF16, round_stochastically


def train(make, dtype, steps=400, lr=1e-4):
    """Pull weights near 1 towards 0.9: each update is far below what bf16 can show of a number near 1."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.ones(256, dtype=dtype))
    optimizer = make([weight], lr=lr, weight_decay=0.01, eps=1e-6)
    for _ in range(steps):
        (weight.float() - 0.9).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return weight.detach().float()


def test_float32_weights_are_updated_exactly_as_by_adamw():
    torch.testing.assert_close(
        train(AdamWBF16, torch.float32), train(torch.optim.AdamW, torch.float32), rtol=0, atol=2e-5
    )


def test_bf16_weights_follow_float32_where_plain_adamw_stands_still():
    exact = train(torch.optim.AdamW, torch.float32)
    ours, plain = train(AdamWBF16, torch.bfloat16), train(torch.optim.AdamW, torch.bfloat16)
    assert (ours - exact).abs().max() < 0.01
    assert (plain == 1).all()


def test_stochastic_rounding_is_right_on_average():
    torch.manual_seed(0)
    value = torch.full((200_000,), 1.0 + 1 / 1024)
    rounded = torch.empty_like(value, dtype=torch.bfloat16)
    round_stochastically(rounded, value)
    assert set(rounded.float().unique().tolist()) == {1.0, 1.0078125}
    assert abs(float(rounded.float().mean()) - float(value[0])) < 5e-5


def test_stochastic_rounding_keeps_what_bf16_can_show():
    value = torch.tensor([0.0, 1.0, -2.5, 3e-30, -1e30]).bfloat16().float()
    rounded = torch.empty_like(value, dtype=torch.bfloat16)
    round_stochastically(rounded, value)
    assert torch.equal(rounded.float(), value)
