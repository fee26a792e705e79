"""The facts that make token routing trustworthy, on a tiny Flux."""

import pytest
import tiny
import torch

from simpletuner.errors import ModelError
from simpletuner.models.tread import Route, TokenRouter

ROUTES = [[Route(1, -2, 0.5)], [Route(0, 1, 0.25), Route(3, 6, 0.75)], [Route(4, -1, 0.5)]]


def seeded():
    return torch.Generator().manual_seed(1)


def predict(denoiser):
    return denoiser.predict(**tiny.inputs())


def test_the_router_is_idle_outside_a_step():
    denoiser = tiny.denoiser()
    plain = predict(denoiser)
    TokenRouter(denoiser.blocks, [Route(1, -2, 0.5)])
    assert torch.equal(predict(denoiser), plain)


def test_a_ratio_of_zero_changes_nothing():
    denoiser = tiny.denoiser()
    plain = predict(denoiser)
    with TokenRouter(denoiser.blocks, [Route(1, -2, 0.0)]).step(seeded):
        assert torch.equal(predict(denoiser), plain)


@pytest.mark.parametrize("routes", ROUTES)
def test_routed_tokens_skip_the_blocks_of_their_route(routes):
    denoiser, lengths = tiny.denoiser(), []
    for block in denoiser.blocks:
        block.register_forward_pre_hook(
            lambda block, args, given: lengths.append(given["hidden_states"].shape[1]), with_kwargs=True
        )
    router = TokenRouter(denoiser.blocks, routes)
    lengths.clear()
    for block in denoiser.blocks:  # a second probe that sees what the router hands on
        block.register_forward_pre_hook(
            lambda block, args, given: lengths.append(given["hidden_states"].shape[1]), with_kwargs=True
        )
    with router.step(seeded):
        predict(denoiser)
    seen = lengths[1::2]
    inside = {number: route.ratio for route in routes for number in route.span(8)}
    assert seen == [24 - round(24 * inside.get(number, 0.0)) for number in range(8)]


@pytest.mark.parametrize("routes", ROUTES)
def test_gradient_checkpointing_sees_the_same_tokens(routes):
    def gradients(checkpointing):
        denoiser = tiny.denoiser()
        denoiser.module.requires_grad_(True)
        denoiser.module.train()
        if checkpointing:
            denoiser.module.enable_gradient_checkpointing()
        with TokenRouter(denoiser.blocks, routes).step(seeded):
            predict(denoiser).square().mean().backward()
        return {name: one.grad for name, one in denoiser.module.named_parameters() if one.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys() and len(plain) > 100
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_a_teacher_and_a_student_in_one_step_keep_the_same_tokens():
    denoiser = tiny.denoiser()
    with TokenRouter(denoiser.blocks, [Route(1, -2, 0.5)]).step(seeded):
        assert torch.equal(predict(denoiser), predict(denoiser))


def test_another_generator_keeps_other_tokens():
    denoiser = tiny.denoiser()
    router = TokenRouter(denoiser.blocks, [Route(1, -2, 0.5)])
    with router.step(seeded):
        first = predict(denoiser)
    with router.step(lambda: torch.Generator().manual_seed(2)):
        assert not torch.equal(predict(denoiser), first)


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        ([Route(1, 8, 0.5)], "names block 8, but the network has 8: 0 to 7"),
        ([Route(-9, 3, 0.5)], "names block -9"),
        ([Route(5, -5, 0.5)], "ends at block -5, before block 5"),
        ([Route(1, 3, 0.5), Route(-6, 5, 0.5)], "two routes through block 2"),
    ],
)
def test_routes_that_the_network_does_not_have_are_refused(routes, said):
    with pytest.raises(ModelError, match=said):
        TokenRouter(tiny.denoiser().blocks, routes)


def test_two_routes_of_one_ratio_keep_different_tokens():
    denoiser = tiny.denoiser()
    router = TokenRouter(denoiser.blocks, [Route(0, 2, 0.5), Route(4, 6, 0.5)])
    with router.step(seeded):
        predict(denoiser)
        first, second = router._kept.values()
        assert not torch.equal(first, second)
