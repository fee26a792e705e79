"""Every objective equals an independent computation in float64, with all gradients, and survives interruptions."""

import math
from dataclasses import replace
from functools import partial
from statistics import NormalDist

import pytest
import steps
import torch
from steps import answer, batch, gradients
from torch.nn.functional import interpolate

from simpletuner.models import checkpointing
from simpletuner.models.adapters import lora
from simpletuner.models.checkpointing import Recompute
from simpletuner.models.tread import Route, TokenRouter
from simpletuner.training.options import Objective
from simpletuner.training.runtime import generator

ONES = torch.ones(2)


@pytest.fixture
def make(tmp_path, model, pictures):
    """A trainer in float64 around the tiny transformer."""
    return partial(steps.trainer, tmp_path, model, pictures)


def agree(trainer, one, loss):
    """See that our loss and all gradients of it are those of another loss."""
    network = trainer.denoiser.module
    wanted = gradients(network, loss)
    ours = trainer.learning.loss(one)
    found = gradients(network, ours)
    assert float(ours.detach()) == pytest.approx(float(loss.detach()), rel=1e-9)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def drawn(purpose, *shape, even=False):
    """The random numbers of the samples of the batch."""
    draw = torch.rand if even else torch.randn
    return torch.stack([draw(*shape, generator=generator(steps.SEED, purpose, sample)) for sample in (10, 11)])


def level(one, shift=3.0):
    sigma = torch.sigmoid(one.normal)
    return shift * sigma / (1 + (shift - 1) * sigma)


def mixed(image, noise, sigma):
    share = sigma.double().view(-1, 1, 1, 1)
    return (1 - share) * image + share * noise


def layered(noise):
    """Two coarse layers on each sample."""
    found = []
    for sample, single in zip((10, 11), noise, strict=True):
        dice = generator(steps.SEED, "coarse noise", sample)
        for layer in range(2):
            ratio = 2 + 2 * float(torch.rand(1, generator=dice))
            size = [max(1, math.floor(edge / ratio**layer)) for edge in (8, 12)]
            grain = interpolate(torch.randn(1, 16, *size, generator=dice), size=(8, 12), mode="bilinear")[0]
            single = single + grain * 0.5**layer
        found.append(single / single.std())
    return torch.stack(found)


def test_other_noise_is_sought_and_a_perturbation_only_seen(make):
    trainer, one = (
        make(
            offset_noise=True,
            noise_offset_probability=1.0,
            multires_noise_iterations=2,
            multires_noise_discount=0.5,
            input_perturbation=0.2,
            input_perturbation_steps=10,
            loss_type="huber",
            huber_schedule="exponential",
        ),
        batch(step=5),
    )
    noise = layered(one.noise + 0.1 * drawn("noise offset", 16, 1, 1))
    sigma = level(one)
    noisy = mixed(one.latents, noise + 0.1 * drawn("input perturbation", 16, 8, 12), sigma)
    said = answer(trainer.denoiser.module, noisy, sigma, one.conditioning, ONES)
    c = (0.1 ** sigma.double()).view(-1, 1, 1, 1)
    agree(trainer, one, (2 * c * (torch.sqrt((said - noise + one.latents) ** 2 + c**2) - c)).mean())


@pytest.mark.parametrize("by_area", [False, True])
def test_a_mask_counts_as_it_is_or_by_its_area(make, by_area):
    mask = torch.zeros(2, 1, 8, 12, dtype=torch.float64)
    mask[0, :, :2], mask[1, :, :, 3:] = 1, 0.25
    trainer, one = make(masked_loss_by_area=by_area, loss_type="l1"), batch(mask=mask, weight=0.5)
    sigma = level(one)
    said = answer(trainer.denoiser.module, mixed(one.latents, one.noise, sigma), sigma, one.conditioning, ONES)
    shown = ((said - one.noise + one.latents).abs() * mask).sum((1, 2, 3))
    whole = 16 * (mask.sum((1, 2, 3)) if by_area else torch.full((2,), 8 * 12.0))
    agree(trainer, one, 0.5 * (shown / whole).mean())


def test_of_a_mask_and_a_segmentation_together_what_both_show_is_learned(make):
    mask, other = torch.zeros(2, 1, 8, 12, dtype=torch.float64), torch.zeros(2, 1, 8, 12, dtype=torch.float64)
    mask[:, :, :5], other[:, :, 2:] = 0.5, 1
    learning = make().learning
    with torch.no_grad():
        both, product = (
            learning.loss(batch(**one)) for one in ({"mask": mask, "optional_mask": other}, {"mask": mask * other})
        )
    assert 0 < float(both) == float(product)


@pytest.mark.parametrize("scheme", ["cosmap", "sigma_sqrt", "uniform"])
def test_runs_of_sd_scripts_can_be_repeated(make, scheme):
    trainer, one = (
        make(
            timestep_sampling="sigma",
            model_prediction_type="sigma_scaled",
            weighting_scheme=scheme,
            flow_reproduce_sd_scripts=True,
        ),
        batch(),
    )
    table = [3 * i / 1000 / (1 + 2 * i / 1000) for i in range(1000, 0, -1)]
    sigma = torch.tensor([table[math.floor(1000 * NormalDist().cdf(n))] for n in one.normal.tolist()])
    noisy, wide = mixed(one.latents, one.noise, sigma), trainer.learning.sigma(one).double()
    torch.testing.assert_close(wide, sigma.double(), rtol=1e-6, atol=0)
    wide = wide.view(-1, 1, 1, 1)
    noisy = (1 - wide) * one.latents + wide * one.noise
    said = noisy - wide * answer(trainer.denoiser.module, noisy, wide.flatten().float(), one.conditioning, ONES)
    weight = {
        "uniform": torch.ones_like(wide),
        "sigma_sqrt": wide**-2,
        "cosmap": 2 / (math.pi * (1 - 2 * wide + 2 * wide**2)),
    }[scheme]
    agree(trainer, one, (weight * (said - one.noise + one.latents) ** 2).mean())


def test_mixflow_tells_the_network_less_noise_than_there_is(make):
    trainer, one = make(mixflow_enabled=True), batch()
    even = torch.tensor([NormalDist().cdf(n) for n in one.normal.tolist()], dtype=torch.float64)
    sigma = trainer.learning.sigma(one)
    plain = 1 - even.sqrt()
    torch.testing.assert_close(sigma, (3 * plain / (1 + 2 * plain)).float())
    place = sigma + drawn("slowing", 1, even=True).flatten() * 0.8 * (1 - sigma)
    said = answer(trainer.denoiser.module, mixed(one.latents, one.noise, place), sigma, one.conditioning, ONES)
    agree(trainer, one, ((said - one.noise + one.latents) ** 2).mean())


def test_the_work_of_a_batch_is_that_of_all_its_samples(make):
    trainer, one = make(), batch()
    each = trainer.denoiser.work(8, 12, one.conditioning)
    assert trainer.learning.work(one) == trainer.learning.work(batch(number=6)) == 2 * each > 0


def test_a_data_set_has_an_offset_of_its_own(make):
    trainer, one = make(), batch(timestep_offset=0.7)
    assert torch.equal(trainer.learning.sigma(one), level(replace(one, normal=one.normal + 0.7)))


ROLLOUT = {
    "scheduled_sampling_max_step_offset": 3,
    "scheduled_sampling_probability": 1.0,
    "scheduled_sampling_sampler": "euler",
}


def drawn_on(network, one, sigma, place):
    """One sample drawn on by Euler's method, written out."""
    steps_taken = 1 + int(3 * float(drawn("steps of drawing on", 1, even=True)[place]))
    plain = float(sigma[place]) / (3 - 2 * float(sigma[place]))
    start = min(1.0, plain + steps_taken / 28)
    even = [start + (plain - start) * step / steps_taken for step in range(steps_taken + 1)]
    way = [3 * level / (1 + 2 * level) for level in even]
    own = {name: tensor[place : place + 1] for name, tensor in one.conditioning.items()}
    latents = mixed(one.latents[place], one.noise[place], torch.tensor([way[0]]))
    with torch.no_grad():
        for now, following in zip(way, way[1:], strict=False):
            latents = latents + (following - now) * answer(network, latents, torch.tensor([now]), own, ONES[:1])
    return latents[0]


def test_the_model_trains_on_what_it_drew_itself(make):
    trainer, one = make(**ROLLOUT), batch()
    sigma, network = level(one), trainer.denoiser.module
    noisy = torch.stack([drawn_on(network, one, sigma, place) for place in (0, 1)])
    said = answer(network, noisy, sigma, one.conditioning, ONES)
    loss = ((said - one.noise + one.latents) ** 2).mean()
    plain = answer(network, mixed(one.latents, one.noise, sigma), sigma, one.conditioning, ONES)
    assert float(loss) != pytest.approx(float(((plain - one.noise + one.latents) ** 2).mean()), rel=1e-5)
    agree(trainer, one, loss)


def test_reflexflow_adds_a_loss_of_directions_and_weighs_by_drift(make):
    options = {"reflexflow": True, "reflexflow_alpha": 500.0, "reflexflow_beta1": 4.0, "reflexflow_beta2": 0.5}
    named = {f"scheduled_sampling_{name}": value for name, value in options.items()}
    trainer, one = make(**{**ROLLOUT, **named, "scheduled_sampling_probability": 0.6}), batch()
    sigma, network = level(one), trainer.denoiser.module
    chosen = (drawn("drawing on", 1, even=True).flatten() < 0.6).tolist()
    assert sorted(chosen) == [False, True]
    straight = mixed(one.latents, one.noise, sigma)
    noisy = torch.stack([drawn_on(network, one, sigma, i) if chosen[i] else straight[i] for i in (0, 1)])
    said = answer(network, noisy, sigma, one.conditioning, ONES)
    losses = []
    for i in (0, 1):
        errors = (said[i] - one.noise[i] + one.latents[i]) ** 2
        if chosen[i]:
            drift, wanted = (noisy[i] - straight[i]).abs(), noisy[i] - one.latents[i]
            aside = said[i] / said[i].norm() - wanted / wanted.norm()
            losses.append(0.5 * (errors * (1 + 500 * drift / drift.sum())).mean() + 4 * (aside**2).sum())
        else:
            losses.append(errors.mean())
    agree(trainer, one, sum(losses) / 2)


def test_what_the_model_draws_of_a_sample_does_not_depend_on_its_batch(make):
    trainer, one = make(**{**ROLLOUT, "scheduled_sampling_sampler": "unipc"}), batch()

    def single(place):
        part = slice(place, place + 1)
        return replace(
            one,
            samples=one.samples[part],
            latents=one.latents[part],
            noise=one.noise[part],
            normal=one.normal[part],
            uniform=one.uniform[part],
            conditioning={name: tensor[part] for name, tensor in one.conditioning.items()},
        )

    alone = [float(trainer.learning.loss(single(place)).detach()) for place in (0, 1)]
    assert float(trainer.learning.loss(one).detach()) == pytest.approx(sum(alone) / 2, rel=1e-12)


@pytest.mark.parametrize("sampler", ["unipc", "euler", "dpm"])
def test_recomputing_blocks_changes_nothing_about_a_rollout(make, sampler):
    trainer, one = make(**{**ROLLOUT, "scheduled_sampling_sampler": sampler}), batch()
    network = trainer.denoiser.module
    network.train()
    plain = trainer.learning.loss(one)
    wanted = gradients(network, plain)
    checkpointing.enable(trainer.denoiser.blocks, Recompute())
    again = trainer.learning.loss(one)
    found = gradients(network, again)
    assert torch.equal(again, plain) and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert network.training


def test_dropout_rests_while_the_model_draws_and_only_then(make):
    trainer, one = make(**ROLLOUT), batch()
    trainer.denoiser.module.train()
    seen = []
    trainer.denoiser.blocks[1].register_forward_pre_hook(lambda block, args: seen.append(block.training))
    trainer.learning.loss(one)
    assert len(seen) > 1 and seen == [False] * (len(seen) - 1) + [True]


def test_no_token_skips_a_block_while_the_model_draws(make):
    trainer, one = make(**ROLLOUT), batch()
    router = TokenRouter(trainer.denoiser.blocks, [Route(1, -2, 0.5)])
    learning = replace(trainer.learning, router=router)
    seen = []
    block = trainer.denoiser.blocks[1]
    block.register_forward_pre_hook(lambda block, args, given: seen.append(given["hidden_states"]), with_kwargs=True)
    with learning.routed(one):
        learning.loss(one)
    assert {len(tokens) for tokens in seen[:-1]} == {1}
    assert {tokens.shape[1] for tokens in seen[:-1]} == {4 * 6} and seen[-1].shape[1] == 2 * 6


def test_regularisation_data_is_not_drawn_on_and_both_see_the_same_noise(make):
    trainer = make(**ROLLOUT, input_perturbation=0.3, offset_noise=True, noise_offset_probability=1.0)
    seen = []
    network = trainer.denoiser.module
    network.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    loss = trainer.learning.loss(batch(regularise=True))
    teacher, student = seen
    assert torch.equal(teacher["hidden_states"], student["hidden_states"]) and float(loss.detach()) > 0
    for name, parameter in lora.trainable(network).items():
        if "lora_B" in name:
            parameter.data.zero_()
    assert float(trainer.learning.loss(batch(regularise=True)).detach()) == 0.0


def test_each_option_changes_what_is_learned(make):
    trainer, one = make(), batch()
    mask = torch.linspace(0, 1, 2 * 96, dtype=torch.float64).view(2, 1, 8, 12)
    given = [
        {},
        {"flow_use_uniform_schedule": True},
        {"flow_use_beta_schedule": True},
        {"flow_cubic_schedule_weights": "0,1,0"},
        {"flow_timestep_sampling": "sigma"},
        {"flow_timestep_sampling": "sigma", "flow_weighting_scheme": "logit_normal"},
        {"flow_custom_timesteps": "300"},
        {"min_timestep": 300},
        {"max_timestep": 300},
        {"masked_loss_by_area": True},
        *({"loss_type": name} for name in ("l1", "huber", "smooth_l1")),
        {"loss_type": "huber", "huber_schedule": "exponential"},
        {"loss_type": "huber", "huber_scale": 2},
        {"input_perturbation": 0.2},
        {"input_perturbation": 0.2, "input_perturbation_random": True},
        {"offset_noise": True, "noise_offset_probability": 1},
        {"offset_noise": True, "noise_offset_probability": 1, "adaptive_noise_scale": 1},
        {"multires_noise_iterations": 4},
        {"multires_noise_iterations": 4, "multires_noise_discount": 0.5},
        ROLLOUT,
        {**ROLLOUT, "scheduled_sampling_reflexflow": True},
        {"mixflow_enabled": True},
        {"mixflow_enabled": True, "mixflow_gamma": 0.2},
    ]
    found = {}
    for options in given:
        learning = replace(trainer.learning, options=Objective.model_validate(options))
        with torch.no_grad():
            found[float(learning.loss(replace(one, mask=mask)))] = options
    assert len(found) == len(given)
