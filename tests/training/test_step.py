"""Our step equals an independent computation in float64 with plain diffusers modules: loss, and every gradient."""

import math
from functools import partial

import house
import pytest
import steps
import tiny
import torch
from steps import batch

from simpletuner import levers
from simpletuner.errors import DoesNotFit
from simpletuner.models.adapters import lora
from simpletuner.seeds import derive
from simpletuner.training.runtime import fits_memory

OBJECTIVES = [
    {"flow_schedule_shift": 3.0},
    {"flow_schedule_shift": 0, "flux_guidance_value": 3.5},
    {"flow_schedule_auto_shift": True, "flow_sigmoid_scale": 1.5},
    {"flux_guidance_mode": "random-range", "flux_guidance_min": 1.0, "flux_guidance_max": 4.0},
]


@pytest.fixture
def make(tmp_path, model, pictures):
    """A trainer in float64 around the tiny transformer."""
    return partial(steps.trainer, tmp_path, model, pictures)


def expected(trainer, one, sigma, guidance):
    """The same loss from the formulas of the paper and diffusers' own packing, on a copy of the network."""
    network = trainer.denoiser.module
    share = sigma.double().view(-1, 1, 1, 1)
    noisy = (1 - share) * one.latents + share * one.noise
    answer = steps.answer(network, noisy, sigma, one.conditioning, guidance)
    loss = ((answer - (one.noise - one.latents)) ** 2).mean()
    return float(loss.detach()), steps.gradients(network, loss)


@pytest.mark.parametrize("options", OBJECTIVES)
def test_loss_and_gradients_equal_an_independent_computation(make, options):
    trainer, one = make(**options), batch()
    sigma = torch.sigmoid(one.normal * options.get("flow_sigmoid_scale", 1.0))
    shift = options.get("flow_schedule_shift", 3.0) or 1.0
    if options.get("flow_schedule_auto_shift"):
        tokens = 4 * 6
        shift = math.exp((1.15 - 0.5) / (4096 - 256) * (tokens - 256) + 0.5)
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    guidance = torch.full((2,), options.get("flux_guidance_value", 1.0))
    if options.get("flux_guidance_mode") == "random-range":
        guidance = 1.0 + 3.0 * one.uniform
    loss, gradients = expected(trainer, one, sigma, guidance)
    trainer.denoiser.module.zero_grad()
    ours = trainer.learning.loss(one)
    ours.backward()
    assert float(ours) == pytest.approx(loss, rel=1e-9)
    for name, parameter in lora.trainable(trainer.denoiser.module).items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12)


def test_schnell_is_told_no_guidance_and_learns_where_it_draws(make):
    trainer, one = make(guidance=False, flux_fast_schedule=True), batch(normal=torch.tensor([0.6, 1.0]))
    # 73 and 84 of 100 normal numbers are smaller: the eighth and the ninth tenth.
    loss, gradients = expected(trainer, one, torch.tensor([0.75, 0.5]), None)
    trainer.denoiser.module.zero_grad()
    ours = trainer.learning.loss(one)
    ours.backward()
    assert float(ours) == pytest.approx(loss, rel=1e-9)
    for name, parameter in lora.trainable(trainer.denoiser.module).items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12)


def test_regularisation_pulls_towards_the_base_models_answer_to_the_very_same_input(make):
    trainer, one = make(), batch(regularise=True)
    seen = []
    trainer.denoiser.module.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    loss = trainer.learning.loss(one)
    teacher, student = seen
    for name, given in teacher.items():
        same = torch.equal(given, student[name]) if isinstance(given, torch.Tensor) else given == student[name]
        assert same, name
    trainer.denoiser.module.zero_grad()
    sigma = trainer.learning.sigma(one)
    noisy = (1 - sigma.double().view(-1, 1, 1, 1)) * one.latents + sigma.double().view(-1, 1, 1, 1) * one.noise
    base = tiny.denoiser()
    base.module.double()
    arguments = (noisy, sigma, one.conditioning, torch.ones(2))
    target = base.predict(*arguments)
    answer = trainer.denoiser.predict(*arguments)
    assert float(loss) == pytest.approx(float((answer - target).square().mean()), rel=1e-9)


def test_an_untrained_adapter_has_nothing_to_unlearn_on_regularisation_data(make):
    trainer = make()
    for name, parameter in lora.trainable(trainer.denoiser.module).items():
        if "lora_B" in name:
            parameter.data.zero_()
    assert float(trainer.learning.loss(batch(regularise=True))) == 0.0


def test_what_draws_without_a_generator_such_as_dropout_depends_on_the_number_of_the_batch_alone(make):
    trainer = make()
    seen = []
    trainer.denoiser.module.register_forward_pre_hook(lambda *given: seen.append(float(torch.rand(1))))
    for number in (5, 6, 5):
        trainer.accumulate(batch(number=number))
    assert seen[0] == seen[2] != seen[1]


def test_noise_depends_on_the_sample_number_alone():
    assert derive(7, "noise", 12) == derive(7, "noise", 12)
    assert len({derive(7, "noise", 12), derive(8, "noise", 12), derive(7, "sigma", 12), derive(7, "noise", 13)}) == 4


def test_running_out_of_memory_names_the_options_that_would_help(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], gradient_checkpointing=False)
    advice_given = levers.memory(house.resolved(path, model))
    advice = "gradient_checkpointing: true; base_model_precision: int8-quanto; a smaller"
    with pytest.raises(DoesNotFit, match=advice), fits_memory(advice_given):
        raise torch.OutOfMemoryError("CUDA out of memory")
