"""Our step equals an independent computation in float64 with plain diffusers modules: loss, and every gradient."""

import math
from dataclasses import replace

import house
import pytest
import tiny
import torch
from diffusers import FluxPipeline

from simpletuner import plans
from simpletuner.errors import DoesNotFit, TrainingError
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.family import Compute
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.run import build_trainer
from simpletuner.seeds import derive
from simpletuner.training.batches import Batch
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime, fits_memory

OBJECTIVES = [
    {"flow_schedule_shift": 3.0},
    {"flow_schedule_shift": 0, "flux_guidance_value": 3.5},
    {"flow_schedule_auto_shift": True, "flow_sigmoid_scale": 1.5},
    {"flux_guidance_mode": "random-range", "flux_guidance_min": 1.0, "flux_guidance_max": 4.0},
]


def batch(**changes):
    random = torch.Generator().manual_seed(2)
    draw = {"dtype": torch.float64, "generator": random}
    facts = {
        "number": 5,
        "epoch": 0,
        "dataset": "subject",
        "regularise": False,
        "keys": ("a.png", "b.png"),
        "samples": (10, 11),
        "latents": torch.randn(2, 16, 8, 12, **draw),
        "noise": torch.randn(2, 16, 8, 12, **draw),
        "normal": torch.randn(2, generator=random),
        "uniform": torch.rand(2, generator=random),
        "conditioning": {
            "prompt_embeds": torch.randn(2, tiny.TEXT, tiny.WIDTH, **draw),
            "pooled_prompt_embeds": torch.randn(2, tiny.WIDTH, **draw),
        },
    }
    return Batch(**{**facts, **changes})


@pytest.fixture
def make(tmp_path, model, pictures):
    """A trainer in float64 around the tiny transformer."""

    def trainer(**options):
        path = house.write_run(tmp_path, [house.data_set("subject", pictures)], lora_dropout=0, **options)
        config = house.resolved(path, model)
        runtime = Runtime.start("no", 7)
        runtime = Runtime(runtime.accelerator, Compute(runtime.device, torch.float64), 7)
        prepared = prepare(config, Runtime.start("no", 7), Recorded())
        made = build_trainer(config, prepared, Checkpoints(tmp_path / "output", 0), runtime, Recorded())
        denoiser = tiny.denoiser()
        denoiser.module.double()
        adapter = lora.attach(denoiser.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 2.0), torch.float64, seed=3)
        _disturb(denoiser)
        return replace(made, denoiser=denoiser, adapter=adapter)

    return trainer


def _disturb(denoiser):
    random = torch.Generator().manual_seed(5)
    for parameter in lora.trainable(denoiser.module).values():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=random) * 0.1


def expected(trainer, one, sigma, guidance):
    """The same loss from the formulas of the paper and diffusers' own packing, on a copy of the network."""
    network = trainer.denoiser.module
    network.zero_grad()
    share = sigma.double().view(-1, 1, 1, 1)
    noisy = (1 - share) * one.latents + share * one.noise
    size, channels, height, width = noisy.shape
    packed = network(
        hidden_states=FluxPipeline._pack_latents(noisy, size, channels, height, width),
        timestep=sigma,
        guidance=guidance,
        pooled_projections=one.conditioning["pooled_prompt_embeds"],
        encoder_hidden_states=one.conditioning["prompt_embeds"],
        txt_ids=torch.zeros(tiny.TEXT, 3, dtype=torch.float64),
        img_ids=FluxPipeline._prepare_latent_image_ids(size, height // 2, width // 2, "cpu", torch.float64),
    ).sample
    answer = FluxPipeline._unpack_latents(packed, height * 8, width * 8, 8)
    loss = ((answer - (one.noise - one.latents)) ** 2).mean()
    loss.backward()
    return float(loss), {name: p.grad.clone() for name, p in lora.trainable(network).items()}


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
    ours = trainer.loss(one)
    ours.backward()
    assert float(ours) == pytest.approx(loss, rel=1e-9)
    for name, parameter in lora.trainable(trainer.denoiser.module).items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12)


def test_regularisation_pulls_towards_the_base_models_answer_to_the_very_same_input(make):
    trainer, one = make(), batch(regularise=True)
    seen = []
    trainer.denoiser.module.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    loss = trainer.loss(one)
    teacher, student = seen
    for name, given in teacher.items():
        same = torch.equal(given, student[name]) if isinstance(given, torch.Tensor) else given == student[name]
        assert same, name
    trainer.denoiser.module.zero_grad()
    sigma = trainer._sigma(one)
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
    assert float(trainer.loss(batch(regularise=True))) == 0.0


def test_a_loss_that_is_not_finite_names_step_files_and_data_set(make):
    trainer, one = make(), batch()
    broken = batch(latents=one.latents * float("nan"))
    with pytest.raises(TrainingError, match=r"loss of step 1 is not a finite.*a.png, b.png of data set 'subject'"):
        trainer._accumulate(broken)


def test_noise_depends_on_the_sample_number_alone():
    assert derive(7, "noise", 12) == derive(7, "noise", 12)
    assert len({derive(7, "noise", 12), derive(8, "noise", 12), derive(7, "sigma", 12), derive(7, "noise", 13)}) == 4


def test_running_out_of_memory_names_the_options_that_would_help(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], gradient_checkpointing=False)
    levers = plans.levers(house.resolved(path, model))
    advice = "gradient_checkpointing: true; base_model_precision: int8-quanto; a smaller"
    with pytest.raises(DoesNotFit, match=advice), fits_memory(levers):
        raise torch.OutOfMemoryError("CUDA out of memory")
