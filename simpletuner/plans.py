"""What a config means for each part of a run: pure functions from options to plans."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner import seeds
from simpletuner.config import RunConfig
from simpletuner.data.dataset import Dataset
from simpletuner.data.pace import Pace
from simpletuner.data.sampler import Order
from simpletuner.models import controlling, memory_plans
from simpletuner.models.adapters import planning, text_planning
from simpletuner.models.adapters.adapter import AdapterPlan
from simpletuner.models.adapters.formats.neutral import CONTROLNET, TRANSFORMER
from simpletuner.models.assemble import Assembly
from simpletuner.models.assistant import Assistant
from simpletuner.models.families import FAMILIES
from simpletuner.models.family import Compute, Controlled, Denoiser, LatentCodec, TextEncoder, TextSettings, Weights
from simpletuner.models.flavours import Flavoured
from simpletuner.models.kept import Kept
from simpletuner.models.kept import recipe as kept_recipe
from simpletuner.models.precision import kept, recipe, workplace
from simpletuner.models.precision import packing as packing_of
from simpletuner.models.sources import fingerprint
from simpletuner.models.trained import Trained
from simpletuner.models.tread import Route
from simpletuner.training import checkpoint, optimizers, update_plans
from simpletuner.training.objective import choosing
from simpletuner.training.runtime import Runtime
from simpletuner.training.saving import RESOLVED_CONFIG
from simpletuner.training.schedule import Schedule
from simpletuner.training.schedules import LearningRate
from simpletuner.training.texts import Texts

if TYPE_CHECKING:
    import torch
    from torch import nn


def family(config: RunConfig) -> Flavoured:
    """The family of the model."""
    return FAMILIES[config.model.model_family]


def cache_folder(config: RunConfig) -> Path:
    """The folder for caches that have no place of their own."""
    return Path(config.run.cache_dir) if config.run.cache_dir else Path("cache")


def seed_of_run(config: RunConfig, resume_from: Path | None) -> int:
    """The seed of the config, or, where that leaves it open, the one of the run that is resumed, or a new one."""
    if config.run.seed is not None and config.run.seed > 0:
        return config.run.seed
    if resume_from is not None:
        return checkpoint.seed_of(resume_from)
    return seeds.fresh()


def codec_compute(config: RunConfig, runtime: Runtime) -> Compute:
    """Where and how exactly images are encoded and decoded."""
    import torch

    dtype = torch.float32 if config.precision.vae_dtype in {"fp32", "no"} else torch.bfloat16
    return Compute(runtime.device, dtype)


def codec(
    config: RunConfig, runtime: Runtime, *, tiled: bool = False
) -> Callable[[], AbstractContextManager[LatentCodec]]:
    """Opens the image encoder and decoder; `tiled` where memory does not suffice for whole pictures."""
    return partial(
        family(config).codec,
        config.model.weights(),
        codec_compute(config, runtime),
        tiling=config.memory.vae_enable_tiling or tiled,
        slicing=config.memory.vae_enable_slicing,
        offload=memory_plans.offload_of_codec(config.memory),
    )


def text_encoder(config: RunConfig, runtime: Runtime) -> Callable[[], AbstractContextManager[TextEncoder]]:
    """Opens the text encoders."""
    return partial(family(config).text_encoder, config.model.weights(), text_settings(config), runtime.compute)


def text_settings(config: RunConfig) -> TextSettings:
    """How captions are encoded."""
    precisions = (config.precision.text_encoder_1_precision, config.precision.text_encoder_2_precision)
    return TextSettings(
        precisions,
        config.objective.tokenizer_max_length,
        config.objective.t5_padding,
        pack_via=config.precision.quantize_via,
        offload=memory_plans.offload_of_encoders(config.memory),
    )


def text_recipe(config: RunConfig, runtime: Runtime) -> str:
    """What decides how captions are encoded besides their words."""
    return f"{family(config).text_recipe(config.model.weights(), text_settings(config))}/{runtime.compute.dtype}"


def latent_recipe(config: RunConfig, runtime: Runtime) -> str:
    """What decides how images are encoded besides their pixels."""
    parts = [family(config).latent_recipe(config.model.weights()), str(codec_compute(config, runtime).dtype)]
    parts += ["tiled"] if config.memory.vae_enable_tiling else []
    parts += ["sample"] if config.data_defaults.vae_cache_mode == "sample" else []
    return "/".join(parts)


def precision(config: RunConfig) -> str:
    """How the transformer is kept."""
    options = config.precision
    return kept(options.base_model_precision, activations=options.quantize_activations)


def name_of_base(config: RunConfig, runtime: Runtime) -> str:
    """Everything that decides what the base model draws besides the prompt and its settings."""
    weights = config.model.weights()
    transformer = fingerprint(weights.transformer, weights.transformer_subfolder, weights.revision)
    parts = (transformer, recipe(precision(config)), text_recipe(config, runtime))
    merged = [f"{one.path}:{one.strength}" for one in planning.base_adapters(config.adapter)]
    helper = assistant(config)
    helped = [f"assistant {helper}"] if helper else []
    masked = ["masked prompt"] if config.objective.flux_attention_masked_training else []
    other = config.model.controlnet_model_name_or_path
    steered = [f"controlnet {fingerprint(other, controlling.KIND, None) if other else other}"]
    steered = steered if config.model.controlnet else []
    return "/".join((*parts, *merged, *helped, *masked, *steered, latent_recipe(config, runtime)))


def denoiser(config: RunConfig, runtime: Runtime) -> Denoiser:
    """The base network, in the precision in which it is kept or trained."""
    weights = config.model.weights()
    trained = Compute(runtime.device, _adapter_dtype(config, runtime))
    return family(config).denoiser(
        weights,
        trained if config.model.trains_base else runtime.compute,
        pack=packing(config, runtime),
        masks_prompt=config.objective.flux_attention_masked_training,
        follows=config.model.control,
        kept=kept_base(config, runtime, weights),
    )


def assistant(config: RunConfig) -> Assistant | None:
    """The helping adapter, when there is one."""
    options = config.adapter
    if options.assistant_lora_path is None or options.disable_assistant_lora:
        return None
    strengths = (options.assistant_lora_strength, options.assistant_lora_inference_strength)
    return Assistant(options.assistant_lora_path, *strengths)


def texts(config: RunConfig, runtime: Runtime) -> Texts | None:
    """The text encoders that are trained, loaded to stay, when there are any."""
    opening, wanted = family(config).open_text, text_planning.wanted(config.adapter)
    if opening is None or not wanted:
        return None
    return Texts(opening(config.model.weights(), text_settings(config), runtime.compute, wanted=wanted), runtime)


def assembly(config: RunConfig, runtime: Runtime, learned: Texts | None = None) -> Assembly:
    """What is done to the base network, and to the text encoders that are trained with it."""
    tread = config.routing.tread_config
    routes = tread.routes if tread else ()
    return Assembly(
        precision=precision(config),
        pack_on=workplace(config.precision.quantize_via, runtime.device),
        adapter=_adapter(config, learned),
        adapter_dtype=_adapter_dtype(config, runtime),
        device=runtime.device,
        recompute=memory_plans.recompute(config.memory),
        compilation=memory_plans.compilation(config.memory),
        offload=memory_plans.offload(config.memory),
        attention=config.memory.attention_mechanism,
        joins_projections=config.adapter.fuse_qkv_projections,
        routes=[Route(one.start_layer_idx, one.end_layer_idx, one.selection_ratio) for one in routes],
        seed=seeds.derive(runtime.seed, "adapter"),
        base_adapters=planning.base_adapters(config.adapter),
        assistant=assistant(config),
        dtype=runtime.compute.dtype,
        control=_control(config, runtime),
    )


def _adapter(config: RunConfig, learned: Texts | None) -> AdapterPlan | None:
    """What is trained beside frozen weights, unless these are trained themselves."""
    part = CONTROLNET if config.model.controlnet else TRANSFORMER
    if config.model.model_type == "full":
        return None
    own = planning.plan(config.adapter, part, controlling.targets(config.model))
    return text_planning.joined(own, learned.parts if learned else (), config.adapter)


def _control(config: RunConfig, runtime: Runtime) -> Callable[[Denoiser], Controlled] | None:
    """Puts a ControlNet beside the network, when there is one: packed like it, unless its own weights are trained."""
    chosen, opening = controlling.plan(config.model), family(config).controlled
    if chosen is None or opening is None:
        return None
    is_whole = config.model.model_type == "full"
    compute = Compute(runtime.device, _adapter_dtype(config, runtime)) if is_whole else runtime.compute
    pack = None if is_whole else packing(config, runtime)
    return partial(opening, weights=config.model.weights(), plan=chosen, compute=compute, pack=pack)


def parameter_groups(config: RunConfig, trained: Trained) -> list[dict[str, Any]]:
    """The trained weights for the optimizer; `factor` is what the learning rate of a group is multiplied by."""
    rate = update_plans.measure(config.optimization)
    return [{"params": list(one.parameters.values()), "factor": one.factor(rate)} for one in trained.groups()]


def packing(config: RunConfig, runtime: Runtime) -> Callable[[nn.Module], None] | None:
    """What is done to a block of the base as soon as its weights are loaded; None where it stays as it is."""
    if precision(config) == "no_change" or config.adapter.base_adapters:  # these are merged into plain weights first
        return None
    return packing_of(precision(config), workplace(config.precision.quantize_via, runtime.device))


def kept_base(config: RunConfig, runtime: Runtime, weights: Weights) -> Kept | None:
    """Where the packed base is kept for the next start."""
    name = precision(config)
    if name == "no_change" or config.adapter.base_adapters:
        return None
    whole = kept_recipe(weights, runtime.compute, recipe(name))
    return Kept(packed_folder(config), whole, packing_of(name))


def packed_folder(config: RunConfig) -> Path:
    """Where packed bases are kept, those of all configs that share the cache."""
    return cache_folder(config) / "packed"


def _adapter_dtype(config: RunConfig, runtime: Runtime) -> torch.dtype:
    """Trained weights are float32, but for an optimizer that was made for bf16 ones."""
    import torch

    keeps_half = optimizers.OPTIMIZERS[config.optimization.optimizer].keeps_half
    return runtime.compute.dtype if keeps_half else torch.float32


def pace(config: RunConfig, runtime: Runtime, resume_from: Path | None = None) -> Pace:
    """How many batches the steps take: up to a checkpoint as in the run that made it, and from there on as now."""
    now = config.duration.gradient_accumulation_steps * runtime.processes
    if resume_from is None:
        return Pace.steady(now)
    state = json.loads(checkpoint.read(resume_from, checkpoint.STATE))
    then = json.loads(checkpoint.read(resume_from, RESOLVED_CONFIG))
    # A checkpoint from before several processes were served does not say how many batches its steps took.
    before = Pace.read(state.get("pace", [(0, then["gradient_accumulation_steps"])]), state.get("parts", 1))
    whole = then.get("train_batch_size", 1) * before.parts
    parts, rest = divmod(whole, config.duration.train_batch_size)
    parted = None if rest else before.parted(parts)
    return (parted or Pace(before.stretches)).changed(int(state["global_step"]), now)


def order(config: RunConfig, datasets: Sequence[Dataset], runtime: Runtime, pace_of_run: Pace | None = None) -> Order:
    """The order in which images are used."""
    return Order(
        datasets,
        seed=runtime.seed,
        sampling=config.data_defaults.data_backend_sampling,
        pace=pace_of_run or pace(config, runtime),
    )


def schedule(config: RunConfig, order: Order) -> Schedule:
    """How long the run is, and when it does what."""
    whole = order.batches_in(config.duration.num_train_epochs or 1)
    total = config.duration.max_train_steps or order.pace.steps_for(whole)
    order.check_length(total)
    return Schedule(
        total_steps=total,
        epochs=order.epoch_of(order.pace.batch_of(total) - 1) + 1,
        accumulation=config.duration.gradient_accumulation_steps,
        evaluate_every=_evaluate_every(config, order),
        release_every=config.memory.accelerator_cache_clear_interval or 0,
    )


def _evaluate_every(config: RunConfig, order: Order) -> int:
    """How many steps lie between two measurements of the loss; 0 for none."""
    options = config.validation
    if options.eval_loss_disable or options.eval_steps_interval is not None:
        return 0 if options.eval_loss_disable else options.eval_steps_interval or 0
    if options.eval_epoch_interval is None:
        return 0
    batches = order.batches_in(options.eval_epoch_interval)
    return max(batches // order.pace.now, 1)


def learning_rate(config: RunConfig, schedule: Schedule, runtime: Runtime) -> LearningRate:
    """The learning rate at every step."""
    images = config.duration.train_batch_size * schedule.accumulation * runtime.processes
    return update_plans.learning_rate(config.optimization, total_steps=schedule.total_steps, images_per_step=images)


def optimizer_settings(config: RunConfig, rate: LearningRate) -> optimizers.Settings:
    """What the optimizer is made with."""
    return update_plans.settings(config.optimization, rate.peak)


def noise_shift(config: RunConfig, height: int, width: int) -> float:
    """The noise shift for latents of this height and width."""
    how = choosing.shifting(config.objective)
    if how == "automatic":
        return family(config).automatic_shift(height, width)
    return (config.objective.flow_schedule_shift or 1.0) if how == "static" else 1.0
