"""adamw_bf16 is AdamW in float32, and follows it closely in bf16 where plain rounding would stand still."""

import torch

from simpletuner.training.adamw_bf16 import IN_CACHE, AdamWBF16, rounded_stochastically


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
    rounded = rounded_stochastically(value)
    assert set(rounded.unique().tolist()) == {1.0, 1.0078125}
    assert abs(float(rounded.mean()) - float(value[0])) < 5e-5


def test_stochastic_rounding_keeps_what_bf16_can_show():
    value = torch.tensor([0.0, 1.0, -2.5, 3e-30, -1e30]).bfloat16().float()
    rounded = rounded_stochastically(value)
    assert torch.equal(rounded, value)


def updated(parameters, gradients, *, together):
    """The weights after some steps, with one optimizer for all of them or with one for each."""
    parameters = [torch.nn.Parameter(one.clone()) for one in parameters]
    lots = [parameters] if together else [[one] for one in parameters]
    optimizers = [AdamWBF16(lot, lr=0.01) for lot in lots]
    for number in range(3):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = (
                None if number == 1 and gradient.shape[0] == 3 else gradient.to(parameter.dtype) * (number + 1)
            )
        for optimizer in optimizers:
            optimizer.step()
    return [one.detach() for one in parameters]


def test_weights_that_are_computed_with_together_are_updated_as_each_by_itself():
    torch.manual_seed(0)
    shapes = [(4, 16), (3, 5), (), (IN_CACHE - 10,), (7, 2), (2, 3, 4)]
    weights = [torch.randn(shape or (1,)) for shape in shapes]
    weights[2], weights[4] = weights[2].double(), torch.randn(2, 7).T
    gradients = [torch.randn(weight.shape) for weight in weights]
    together, apart = (updated(weights, gradients, together=how) for how in (True, False))
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-7)


def test_every_weight_in_bf16_gets_its_own_remainder_back():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.full((8, number), 1.0, dtype=torch.bfloat16)) for number in (2, 3, 5)]
    optimizer = AdamWBF16(weights, lr=1e-4, weight_decay=0.0)
    for _ in range(50):
        for number, weight in enumerate(weights):
            weight.grad = torch.full_like(weight, number - 1.0)
        optimizer.step()
    exact = [float((one.double() + optimizer.state[one]["compensation"].double()).mean()) for one in weights]
    torch.testing.assert_close(exact, [1.005, 1.0, 0.995], rtol=0, atol=5e-4)
