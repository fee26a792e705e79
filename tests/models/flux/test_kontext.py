"""Kontext with references equals an independent computation in float64: the prediction, the loss and every gradient."""

import pytest
import tiny
import torch
from diffusers import FluxKontextPipeline
from einops import rearrange
from torch.nn.functional import mse_loss, scaled_dot_product_attention

from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.checkpointing import Recompute, enable
from simpletuner.models.flux import kontext
from simpletuner.models.flux.denoiser import FluxDenoiser
from simpletuner.models.references import name
from simpletuner.models.tread import Route, TokenRouter


def trained(*, guidance=True):
    """A Kontext denoiser in float64 with a disturbed adapter, and the same network without any change of ours."""
    found = []
    for changed in (True, False):
        module = tiny.flux(guidance=guidance).double()
        if changed:
            kontext.give_each_its_time(module)
        lora.attach(
            module, LoraPlan(("to_q", "to_k", "proj_mlp", "ff.net.0.proj", "norm1.linear"), 3, 2.0), torch.float64, 3
        )
        random = torch.Generator().manual_seed(5)
        for parameter in lora.trainable(module).values():
            parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=random) * 0.1
        found.append(module)
    return FluxDenoiser(found[0], has_still_references=True), found[1]


def inputs(sizes=((8, 8), (4, 12))):
    """What `predict` takes, in float64, with references of these latent sizes."""
    random = torch.Generator().manual_seed(8)
    given = tiny.inputs()
    conditioning = {
        name(number): torch.randn(2, 16, *size, dtype=torch.float64, generator=random)
        for number, size in enumerate(sizes)
    }
    given["conditioning"] = {key: one.double() for key, one in given["conditioning"].items()} | conditioning
    return {
        **given,
        "noisy": given["noisy"].double(),
        "sigma": given["sigma"].double(),
        "guidance": torch.full((2,), 2.5, dtype=torch.float64),
    }


def plainly(module, noisy, sigma, conditioning, guidance, places):
    """Kontext written out token by token: every token has its own time, references 0."""
    image = [noisy, *(conditioning[f"reference_{i}"] for i in range(len(conditioning) - 2))]
    tokens = torch.cat([rearrange(one, "b c (h y) (w x) -> b (h w) (c y x)", y=2, x=2) for one in image], dim=1)
    scene = noisy.shape[-1] * noisy.shape[-2] // 4
    image, text = module.x_embedder(tokens), module.context_embedder(conditioning["prompt_embeds"])
    pooled = conditioning["pooled_prompt_embeds"]

    def told(time):
        known = [] if guidance is None else [guidance * 1000]
        return module.time_text_embed(time * 1000, *known, pooled)

    ours, theirs = told(sigma), told(torch.zeros_like(sigma))
    times = torch.stack([ours if token < scene else theirs for token in range(tokens.shape[1])], dim=1)
    rotary = module.pos_embed(torch.cat([torch.zeros(text.shape[1], 3, dtype=torch.float64), places]))

    def turned(x):
        first, second = x[..., 0::2], x[..., 1::2]
        swapped = torch.stack([-second, first], dim=-1).flatten(-2)
        return x * rotary[0][:, None] + swapped * rotary[1][:, None]

    def attend(attn, parts):
        rows = []
        for tokens, q, k, v, norm_q, norm_k in parts:
            heads = [rearrange(layer(tokens), "b l (h d) -> b l h d", h=attn.heads) for layer in (q, k, v)]
            rows.append((norm_q(heads[0]), norm_k(heads[1]), heads[2]))
        q, k, v = (torch.cat(one, dim=1) for one in zip(*rows, strict=True))
        q, k = turned(q), turned(k)
        seen = scaled_dot_product_attention(*(one.transpose(1, 2) for one in (q, k, v)))
        return seen.transpose(1, 2).flatten(2)

    def steps(linear, time, parts):
        return linear(torch.nn.functional.silu(time)).chunk(parts, dim=-1)

    def plain_norm(x):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)

    words = ours[:, None].expand(-1, text.shape[1], -1)
    for block in module.transformer_blocks:
        a = block.attn
        si, ci, gi, sj, cj, gj = steps(block.norm1.linear, times, 6)
        ti, ui, hi, tj, uj, hj = steps(block.norm1_context.linear, words, 6)
        seen = attend(
            a,
            [
                (
                    plain_norm(text) * (1 + ui) + ti,
                    a.add_q_proj,
                    a.add_k_proj,
                    a.add_v_proj,
                    a.norm_added_q,
                    a.norm_added_k,
                ),
                (plain_norm(image) * (1 + ci) + si, a.to_q, a.to_k, a.to_v, a.norm_q, a.norm_k),
            ],
        )
        image = image + gi * a.to_out[0](seen[:, text.shape[1] :])
        text = text + hi * a.to_add_out(seen[:, : text.shape[1]])
        image = image + gj * block.ff(plain_norm(image) * (1 + cj) + sj)
        text = text + hj * block.ff_context(plain_norm(text) * (1 + uj) + tj)
    both, all_times = torch.cat([text, image], dim=1), torch.cat([words, times], dim=1)
    for block in module.single_transformer_blocks:
        a = block.attn
        s, c, g = steps(block.norm.linear, all_times, 3)
        changed = plain_norm(both) * (1 + c) + s
        seen = attend(a, [(changed, a.to_q, a.to_k, a.to_v, a.norm_q, a.norm_k)])
        hidden = torch.nn.functional.gelu(block.proj_mlp(changed), approximate="tanh")
        both = both + g * block.proj_out(torch.cat([seen, hidden], dim=2))
    image = both[:, text.shape[1] :][:, :scene]
    scale, shift = module.norm_out.linear(torch.nn.functional.silu(ours))[:, None].chunk(2, dim=-1)
    out = module.proj_out(plain_norm(image) * (1 + scale) + shift)
    height, width = noisy.shape[-2:]
    return rearrange(out, "b (h w) (c y x) -> b c (h y) (w x)", h=height // 2, w=width // 2, y=2, x=2)


def places_of(height, width, references):
    """Places of the tokens of an image, and of references that begin at a row and column."""
    found = [(0, row, column) for row in range(height) for column in range(width)]
    for (rows, columns), (top, left) in references:
        found += [(1, top + row, left + column) for row in range(rows) for column in range(columns)]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("guidance", [True, False])
def test_two_references_give_the_loss_and_the_gradients_of_an_independent_computation(guidance):
    denoiser, plain = trained(guidance=guidance)
    given = inputs()
    given["guidance"] = given["guidance"] if guidance else None
    target = torch.randn(given["noisy"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    # The first reference is 4 by 4 tokens, the second 2 by 6: below the first the whole stays shorter.
    places = places_of(4, 6, [((4, 4), (0, 0)), ((2, 6), (4, 0))])
    loss = mse_loss(denoiser.predict(**given), target)
    expected = mse_loss(plainly(plain, **given, places=places), target)
    assert abs(loss - expected) < 1e-9
    loss.backward()
    expected.backward()
    theirs = lora.trainable(plain)
    for key, parameter in lora.trainable(denoiser.module).items():
        assert torch.allclose(parameter.grad, theirs[key].grad, rtol=0, atol=1e-9), key


def test_references_change_the_prediction_and_no_noise_level_changes_what_they_are_told():
    denoiser, _ = trained()
    given = inputs()
    without = {**given, "conditioning": {k: v for k, v in given["conditioning"].items() if "reference" not in k}}
    assert not torch.allclose(denoiser.predict(**given), denoiser.predict(**without))
    told = denoiser._still(given["sigma"], given["guidance"], given["conditioning"]["pooled_prompt_embeds"])
    again = denoiser._still(given["sigma"] / 2, given["guidance"], given["conditioning"]["pooled_prompt_embeds"])
    assert torch.equal(told, again)


def test_without_references_the_changed_blocks_compute_what_stock_ones_do_bit_for_bit():
    denoiser, plain = trained()
    given = inputs(sizes=())
    assert torch.equal(denoiser.predict(**given), FluxDenoiser(plain).predict(**given))


def test_references_at_the_time_of_the_image_are_the_stock_transformer_with_longer_input():
    denoiser, plain = trained()
    given = inputs()
    same_time = FluxDenoiser(denoiser.module).predict(**given)
    assert torch.equal(same_time, FluxDenoiser(plain).predict(**given))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(4, 4)], [(0, 0)]),
        ([(4, 6), (4, 6)], [(0, 0), (4, 0)]),
        ([(6, 4), (6, 4)], [(0, 0), (0, 4)]),
        ([(4, 4), (4, 4), (4, 4)], [(0, 0), (4, 0), (0, 4)]),
    ],
)
def test_references_lie_side_by_side_so_that_the_whole_stays_short(sizes, expected):
    assert kontext.offsets(sizes) == expected


def test_no_two_tokens_of_any_references_have_the_same_place():
    sizes = [(5, 3), (2, 7), (4, 4), (1, 9)]
    places = kontext.positions(sizes, torch.zeros(1)).tolist()
    assert len(places) == sum(height * width for height, width in sizes)
    assert len({tuple(place) for place in places}) == len(places)


def test_one_reference_has_the_places_that_the_stock_pipeline_gives_it():
    ours = kontext.positions([(4, 6)], torch.zeros(1))
    stock = FluxKontextPipeline._prepare_latent_image_ids(1, 4, 6, torch.device("cpu"), torch.float32)
    stock[..., 0] = 1
    assert torch.equal(ours, stock)


def test_gradients_are_the_same_when_blocks_are_computed_twice():
    given = inputs()
    gradients = []
    for twice in (False, True):
        denoiser, _ = trained()
        if twice:
            enable(denoiser.blocks, Recompute())
        denoiser.predict(**given).square().mean().backward()
        gradients.append({key: one.grad for key, one in lora.trainable(denoiser.module).items()})
    for key, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][key], rtol=0, atol=1e-12), key


def test_routing_at_ratio_zero_is_dense_and_routed_references_keep_their_time():
    dense, _ = trained()
    expected = dense.predict(**inputs())
    for ratio, is_equal in ((0.0, True), (0.5, False)):
        denoiser, _ = trained()
        router = TokenRouter(denoiser.blocks, [Route(1, -2, ratio)])
        with router.step(lambda: torch.Generator().manual_seed(4)):
            found = denoiser.predict(**inputs())
        assert torch.equal(found, expected) is is_equal
        assert found.isfinite().all()
