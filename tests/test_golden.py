"""Fifty steps of a run equal a training loop written here with plain diffusers, PEFT, LyCORIS and torch alone."""

from __future__ import annotations

import json

import house
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from simpletuner import plans
from simpletuner.building import build_trainer
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded, StepDone
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

STEPS, RATE, LIMIT, WARM_UP = 50, 1e-3, 0.05, 5
LAYERS = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"]
OPTIONS = {
    "max_train_steps": STEPS,
    "learning_rate": RATE,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": WARM_UP,
    "max_grad_norm": LIMIT,
    "grad_clip_method": "norm",
    "caption_dropout_probability": 0.2,
    "gradient_accumulation_steps": 2,
    "flow_schedule_shift": 3.0,
    "peft_lora_target_modules": LAYERS,
}
LOKR = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 2, "factor": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return house.draw_pictures(tmp_path_factory.mktemp("golden"), 7)


def batches(config):
    """What the run is trained on: latents, noise, captions and noise levels by number of the batch."""
    runtime = Runtime.start("no", 7)
    pace = plans.pace(config, runtime, None)
    prepared = prepare(config, runtime, Recorded(), pace)
    store = Checkpoints(config.run.output_dir, 0)
    return build_trainer(config, prepared, store, runtime, Recorded(), pace).batches


def loss_of(network, batch):
    """Flow matching by the formulas of the paper and diffusers' own packing."""
    sigma = torch.sigmoid(batch.normal)
    sigma = 3.0 * sigma / (1 + 2.0 * sigma)
    share = sigma.view(-1, 1, 1, 1)
    noisy = (1 - share) * batch.latents + share * batch.noise
    size, channels, height, width = noisy.shape
    text = batch.conditioning["prompt_embeds"].float()
    answer = network(
        hidden_states=FluxPipeline._pack_latents(noisy, size, channels, height, width),
        timestep=sigma,
        guidance=torch.ones(size),
        pooled_projections=batch.conditioning["pooled_prompt_embeds"].float(),
        encoder_hidden_states=text,
        txt_ids=torch.zeros(text.shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(size, height // 2, width // 2, "cpu", torch.float32),
    ).sample
    unpacked = FluxPipeline._unpack_latents(answer, height * 8, width * 8, 8)
    return ((unpacked - (batch.noise - batch.latents)) ** 2).mean()


def trained(network, parameters, found):
    """The plainest loop there is; returns losses and norms of gradients."""
    network.train()
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8)
    losses, norms = [], []
    for step in range(STEPS):
        parts = [loss_of(network, found.load(2 * step + part)) for part in range(2)]
        (sum(parts) / 2).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, LIMIT)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(sum(parts)) / 2)
    return losses, norms


def compare(recorded, losses, norms):
    """Every step, to the rounding of float32: measured are 2e-7 for both."""
    steps = [event for event in recorded.events if isinstance(event, StepDone)]
    assert [one.loss for one in steps] == pytest.approx(losses, rel=1e-6)
    assert [one.gradient_norm for one in steps] == pytest.approx(norms, rel=2e-6)
    assert losses[-1] != pytest.approx(losses[0], rel=1e-2)


def same(ours, theirs):
    """Weights differ by a thousandth of one step at most, after fifty; measured is a seventh of that."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-3 * RATE, msg=name)


def test_a_lora_is_trained_as_a_plain_loop_trains_it(tmp_path, model, data):
    network = FluxTransformer2DModel.from_pretrained(model, subfolder="transformer").requires_grad_(False)
    names = [name for name, one in network.named_modules() if isinstance(one, torch.nn.Linear)]
    targets = [name for name in names if name.endswith(tuple(LAYERS))]
    network.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=targets))
    weights = {name: one for name, one in network.named_parameters() if one.requires_grad}
    torch.manual_seed(1)
    for parameter in weights.values():
        parameter.data = torch.randn_like(parameter) * 0.1
    start = {f"transformer.{name.replace('.default', '')}": one.detach().clone() for name, one in weights.items()}
    alphas = {name.replace("lora_A.weight", "alpha"): torch.tensor(2.0) for name in start if "lora_A" in name}
    save_file({**start, **alphas}, tmp_path / "start.safetensors")
    path = house.write_run(
        tmp_path,
        [house.data_set("subject", data)],
        **OPTIONS,
        lora_alpha=2,
        lora_dropout=0,
        init_lora=str(tmp_path / "start.safetensors"),
    )
    losses, norms = trained(network, list(weights.values()), batches(house.resolved(path, model)))
    outcome, recorded = house.run(path, model)
    compare(recorded, losses, norms)
    newest = outcome.checkpoints[-1] / "adapter_state.safetensors"
    same(load_file(newest), {f"transformer.{name.replace('.default', '')}": one for name, one in weights.items()})


def test_a_lokr_is_trained_as_a_plain_loop_trains_it(tmp_path, model, data):
    from lycoris import LycorisNetwork, create_lycoris

    settings = {**LOKR, "apply_preset": {"target_module": ["FluxAttention"]}}
    path = house.write_run(
        tmp_path,
        [house.data_set("subject", data)],
        **{**OPTIONS, "peft_lora_target_modules": None},
        lora_type="lycoris",
        lycoris_config=settings,
        checkpoint_step_interval=1,
        checkpoints_total_limit=0,
    )
    outcome, recorded = house.run(path, model)
    network = FluxTransformer2DModel.from_pretrained(model, subfolder="transformer").requires_grad_(False)
    LycorisNetwork.apply_preset(settings["apply_preset"])
    adapter = create_lycoris(network, 1.0, **{key: one for key, one in LOKR.items() if key != "multiplier"})
    adapter.apply_to()
    adapter.requires_grad_(True)
    _put_start(adapter, path, model)
    losses, norms = trained(network, list(adapter.parameters()), batches(house.resolved(path, model)))
    compare(recorded, losses, norms)
    newest = outcome.checkpoints[-1] / "pytorch_lora_weights.safetensors"
    theirs = {name: one for name, one in adapter.state_dict().items() if not name.endswith("alpha")}
    ours = {name: one for name, one in load_file(newest).items() if not name.endswith("alpha")}
    same(ours, theirs)


def _put_start(adapter, path, model):
    """The weights that the run began with: those of a run of no steps."""
    config = house.resolved(path, model)
    runtime = Runtime.start("no", 7)
    pace = plans.pace(config, runtime, None)
    prepared = prepare(config, runtime, Recorded(), pace)
    made = build_trainer(config, prepared, Checkpoints(config.run.output_dir, 0), runtime, Recorded(), pace)
    made.trained.save(path.parent, {})
    start = load_file(path.parent / "pytorch_lora_weights.safetensors")
    missing, _ = adapter.load_state_dict(start, strict=False)
    assert not [name for name in missing if not name.endswith("alpha")]


def test_a_whole_model_is_trained_as_a_plain_loop_trains_it(tmp_path, model, data):
    path = house.write_run(
        tmp_path,
        [house.data_set("subject", data)],
        **{**OPTIONS, "peft_lora_target_modules": None, "lora_rank": None, "flux_lora_target": None},
        model_type="full",
    )
    network = FluxTransformer2DModel.from_pretrained(model, subfolder="transformer")
    losses, norms = trained(network, list(network.parameters()), batches(house.resolved(path, model)))
    outcome, recorded = house.run(path, model)
    compare(recorded, losses, norms)
    ours = FluxTransformer2DModel.from_pretrained(outcome.checkpoints[-1] / "transformer")
    same(ours.state_dict(), network.state_dict())
    assert json.loads((outcome.checkpoints[-1] / "transformer" / "config.json").read_text())
