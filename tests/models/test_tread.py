"""The facts that make token routing trustworthy, on a tiny Flux."""

from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import ChromaTransformer2DModel

from simpletuner.errors import ModelError
from simpletuner.models import checkpointing
from simpletuner.models.flux import kontext
from simpletuner.models.flux.denoiser import pack, positions, unpack
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
    def gradients(recompute):
        denoiser = tiny.denoiser()
        denoiser.module.requires_grad_(True)
        denoiser.module.train()
        if recompute:
            recompute(denoiser)
        with TokenRouter(denoiser.blocks, routes).step(seeded):
            predict(denoiser).square().mean().backward()
        return {name: one.grad for name, one in denoiser.module.named_parameters() if one.grad is not None}

    plain = gradients(None)
    assert len(plain) > 100
    for recompute in (
        lambda denoiser: denoiser.module.enable_gradient_checkpointing(),
        lambda denoiser: checkpointing.enable(denoiser.blocks, checkpointing.Recompute()),
    ):
        found = gradients(recompute)
        assert found.keys() == plain.keys()
        for name, gradient in plain.items():
            assert torch.equal(found[name], gradient), name


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


def plainly(denoiser, routes, kept, given):
    """The forward pass written out: embed, gather, blocks with the rotary rows of what is left, scatter."""
    network = denoiser.module
    noisy, text = given["noisy"], given["conditioning"]["prompt_embeds"]
    image = network.x_embedder(pack(noisy))
    guidance = given["guidance"] * 1000
    temb = network.time_text_embed(given["sigma"] * 1000, guidance, given["conditioning"]["pooled_prompt_embeds"])
    text = network.context_embedder(text)
    places = torch.cat([torch.zeros(tiny.TEXT, 3), positions(*noisy.shape[-2:], noisy)])
    for number, block in enumerate(denoiser.blocks):
        rows = places
        for route in routes:
            if number == route.span(8)[0]:
                aside = image.clone()
                image = image[:, kept[route]]
            if number in route.span(8):
                rows = torch.cat([places[: tiny.TEXT], places[tiny.TEXT :][kept[route]]])
        text, image = block(image, text, temb, network.pos_embed(rows))
        for route in routes:
            if number == route.span(8)[-1]:
                aside[:, kept[route]] = image
                image = aside
    return unpack(network.proj_out(network.norm_out(image, temb)), *noisy.shape[-2:])


@pytest.mark.parametrize("routes", ROUTES)
def test_routing_equals_the_pass_written_out_with_its_own_rotary_table(routes):
    denoiser = tiny.denoiser()
    denoiser.module.double()
    given = tiny.inputs()
    given = {name: one.double() if isinstance(one, torch.Tensor) else one for name, one in given.items()}
    given["conditioning"] = {name: one.double() for name, one in given["conditioning"].items()}
    blocks = denoiser.blocks
    router = TokenRouter(blocks, routes)
    with router.step(seeded):
        found, kept = denoiser.predict(**given), dict(router._kept)
    torch.testing.assert_close(found, plainly(denoiser, routes, kept, given), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("routes", ROUTES)
def test_tokens_that_skip_the_blocks_come_out_as_they_went_in(routes):
    denoiser = tiny.denoiser()
    going, coming = {}, {}
    for route in routes:
        denoiser.blocks[route.span(8)[0]].register_forward_pre_hook(
            lambda block, args, given, route=route: going.update({route: given["hidden_states"]}), with_kwargs=True
        )
    router = TokenRouter(denoiser.blocks, routes)
    for route in routes:
        denoiser.blocks[route.span(8)[-1]].register_forward_hook(
            lambda block, args, output, route=route: coming.update({route: output[1]})
        )
    with router.step(seeded):
        predict(denoiser)
        for route in routes:
            skipped = sorted(set(range(24)) - set(router._kept[route].tolist()))
            assert skipped and torch.equal(coming[route][:, skipped], going[route][:, skipped])


def masked(*squares):
    """A mask of latents for each sample, one where it matters."""
    mask = torch.zeros(len(squares), 1, 8, 12)
    for number, (rows, columns) in enumerate(squares):
        mask[number, :, rows, columns] = 1
    return mask


@pytest.mark.parametrize("routes", ROUTES)
def test_masked_tokens_never_skip_a_block(routes):
    denoiser = tiny.denoiser()
    router = TokenRouter(denoiser.blocks, routes)
    mask = masked((slice(0, 2), slice(0, 4)), (slice(0, 0), slice(0, 0)))
    with router.step(seeded, mask):
        predict(denoiser)
        for route in routes:
            kept = router._kept[route]
            assert {0, 1} <= set(kept.tolist())
            assert len(kept) == 24 - round(24 * route.ratio)


def test_a_token_of_which_half_is_masked_may_skip_blocks():
    router, half = TokenRouter(tiny.denoiser().blocks, [Route(1, -2, 0.5)]), masked((slice(6, 8), slice(11, 12)))
    drawn = []
    for seed in range(8):
        with router.step(lambda seed=seed: torch.Generator().manual_seed(seed), half):
            drawn.append(23 in router._draw(24, 0.5).tolist())
    assert any(drawn) and not all(drawn)


def test_more_masked_tokens_than_asked_for_are_all_kept():
    denoiser = tiny.denoiser()
    router = TokenRouter(denoiser.blocks, [Route(4, -2, 0.75)])
    with router.step(seeded, masked((slice(0, 4), slice(0, 12)), (slice(4, 6), slice(0, 4)))):
        predict(denoiser)
        (kept,) = router._kept.values()
        assert kept.tolist() == [*range(12), 12, 13]


@pytest.mark.parametrize("value", [0, 1])
def test_a_mask_of_nothing_or_of_everything_is_as_good_as_none(value):
    denoiser = tiny.denoiser()
    router = TokenRouter(denoiser.blocks, [Route(1, -2, 0.5)])
    with router.step(seeded):
        plain = predict(denoiser)
    with router.step(seeded, torch.full((2, 1, 8, 12), float(value))):
        assert torch.equal(predict(denoiser), plain)


def test_references_behind_the_image_are_routed_with_it():
    router = TokenRouter(tiny.denoiser().blocks, [Route(1, -2, 0.5)])
    with router.step(seeded, masked((slice(0, 6), slice(0, 12)))):
        kept = router._draw(60, 0.5)
    assert len(kept) == 30 and set(range(18)) <= set(kept.tolist())


def masking(denoiser):
    """The same network with prompts whose padding is hidden; the last three tokens are padding."""
    given = tiny.inputs()
    words = torch.arange(tiny.TEXT) < tiny.TEXT - 3
    given["conditioning"] = {**given["conditioning"], "prompt_mask": words.expand(2, -1)}
    return replace(denoiser, masks_prompt=True), given


@pytest.mark.parametrize("routes", ROUTES)
def test_hidden_padding_stays_hidden_from_the_tokens_that_are_left(routes):
    denoiser, given = masking(tiny.denoiser())
    changed = given["conditioning"]["prompt_embeds"].clone()
    changed[:, -3:] += 7
    router = TokenRouter(denoiser.blocks, routes)
    with router.step(seeded):
        plain = denoiser.predict(**given)
        other = denoiser.predict(**{**given, "conditioning": {**given["conditioning"], "prompt_embeds": changed}})
    assert torch.equal(plain, other)


def referring():
    """A network that looks at two references, and inputs for it."""
    denoiser, given = tiny.denoiser(), tiny.inputs()
    kontext.give_each_its_time(denoiser.module)
    random = torch.Generator().manual_seed(4)
    others = {f"reference_{number}": torch.randn(2, 16, 8, 8, generator=random) for number in range(2)}
    given["conditioning"] = {**given["conditioning"], **others}
    return replace(denoiser, has_still_references=True), given


@pytest.mark.parametrize("routes", ROUTES)
def test_references_keep_their_own_time_on_a_route(routes):
    """Every block sees as many tokens of references as were kept, and tells them time 0."""
    denoiser, given = referring()
    plain = denoiser.predict(**given)
    router = TokenRouter(denoiser.blocks, [Route(route.start, route.end, 0.0) for route in routes])
    with router.step(seeded):
        assert torch.equal(denoiser.predict(**given), plain)
    denoiser, given = referring()
    router, seen = TokenRouter(denoiser.blocks, routes), {}
    for number, block in enumerate(denoiser.blocks):
        block.register_forward_pre_hook(
            lambda block, args, given, number=number: seen.update({number: given["image_rotary_emb"]}), with_kwargs=True
        )
    with router.step(seeded, masked((slice(0, 6), slice(0, 12)))):
        denoiser.predict(**given)
        for route in routes:
            kept = router._kept[route]
            for number in route.span(8):
                assert int(kontext._are_references(seen[number]).sum()) == int((kept >= 24).sum())


def chroma():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ChromaTransformer2DModel(
            in_channels=64,
            num_layers=3,
            num_single_layers=5,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.WIDTH,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )


@pytest.mark.parametrize("routes", ROUTES)
def test_blocks_with_the_text_in_front_of_the_image_are_routed_too(routes):
    network, lengths = chroma(), []
    blocks = [*network.transformer_blocks, *network.single_transformer_blocks]
    given = {
        "hidden_states": torch.randn(2, 24, 64),
        "encoder_hidden_states": torch.randn(2, tiny.TEXT, tiny.WIDTH),
        "timestep": torch.rand(2),
        "img_ids": positions(8, 12, torch.zeros(1)),
        "txt_ids": torch.zeros(tiny.TEXT, 3),
        "attention_mask": torch.ones(2, tiny.TEXT + 24),
    }
    plain = network(**given).sample
    router = TokenRouter(blocks, [Route(route.start, route.end, 0.0) for route in routes])
    with router.step(seeded):
        assert torch.equal(network(**given).sample, plain)
    router = TokenRouter(blocks, routes)
    for block in blocks:
        block.register_forward_pre_hook(
            lambda block, args, given: lengths.append(given["image_rotary_emb"][0].shape[0]), with_kwargs=True
        )
    with router.step(seeded):
        assert network(**given).sample.shape == plain.shape
    inside = {number: route.ratio for route in routes for number in route.span(8)}
    assert lengths == [tiny.TEXT + 24 - round(24 * inside.get(number, 0.0)) for number in range(8)]
