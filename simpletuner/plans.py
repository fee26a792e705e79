"""What a config means for each part of a run: pure functions from options to plans."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner import seeds
from simpletuner.config import SECTIONS, RunConfig
from simpletuner.data.dataset import Dataset
from simpletuner.data.sampler import Order
from simpletuner.data.sources import DataBackend
from simpletuner.models import memory_plans
from simpletuner.models.adapters import planning
from simpletuner.models.adapters.adapter import Adapter
from simpletuner.models.assemble import Assembly
from simpletuner.models.assistant import Assistant
from simpletuner.models.families import FAMILIES
from simpletuner.models.family import Compute, Denoiser, LatentCodec, TextEncoder, TextSettings, Weights
from simpletuner.models.flavours import Flavoured
from simpletuner.models.kept import Kept
from simpletuner.models.kept import recipe as kept_recipe
from simpletuner.models.precision import kept, recipe, workplace
from simpletuner.models.precision import packing as packing_of
from simpletuner.models.sources import fingerprint, is_folder, looks_like_path
from simpletuner.models.tread import Route
from simpletuner.training import checkpoint, optimizers
from simpletuner.training.metadata import Images, Session, modelspec, session
from simpletuner.training.runtime import Runtime
from simpletuner.training.schedules import LearningRate
from simpletuner.training.trainer import RESOLVED_CONFIG, Schedule

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


def changes_since(config: RunConfig, resume_from: Path | None) -> list[str]:
    """What decides the outcome of training and is different now from when a checkpoint was made."""
    if resume_from is None:
        return []
    then = json.loads(checkpoint.read(resume_from, RESOLVED_CONFIG))
    now = json.loads(config.dump())
    keys = [key for name in _DECISIVE for key in SECTIONS[name].model_fields if key not in _LENGTH]
    found = [f"{key} was {then.get(key)!r}, is {now[key]!r}" for key in keys if then.get(key) != now[key]]
    if then.get("data_backends") != now["data_backends"]:
        found.append("the data sets")
    return found


_DECISIVE = ("model", "precision", "adapter", "routing", "duration", "optimization", "objective", "data_defaults")
_LENGTH = frozenset({"max_train_steps", "num_train_epochs"})


def codec_compute(config: RunConfig, runtime: Runtime) -> Compute:
    """Where and how exactly images are encoded and decoded."""
    import torch

    dtype = torch.float32 if config.precision.vae_dtype in {"fp32", "no"} else torch.bfloat16
    return Compute(runtime.device, dtype)


def codec(config: RunConfig, runtime: Runtime) -> Callable[[], AbstractContextManager[LatentCodec]]:
    """Opens the image encoder and decoder."""
    return partial(
        family(config).codec,
        config.model.weights(),
        codec_compute(config, runtime),
        tiling=config.memory.vae_enable_tiling,
        slicing=config.memory.vae_enable_slicing,
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
    assistant = _assistant(config)
    helped = [f"assistant {assistant}"] if assistant else []
    masked = ["masked prompt"] if config.objective.flux_attention_masked_training else []
    return "/".join((*parts, *merged, *helped, *masked, latent_recipe(config, runtime)))


def denoiser(config: RunConfig, runtime: Runtime) -> Denoiser:
    """The frozen base network."""
    weights = config.model.weights()
    return family(config).denoiser(
        weights,
        runtime.compute,
        pack=packing(config, runtime),
        masks_prompt=config.objective.flux_attention_masked_training,
        kept=kept_base(config, runtime, weights),
    )


def _assistant(config: RunConfig) -> Assistant | None:
    """The helping adapter, when there is one."""
    options = config.adapter
    if options.assistant_lora_path is None or options.disable_assistant_lora:
        return None
    strengths = (options.assistant_lora_strength, options.assistant_lora_inference_strength)
    return Assistant(options.assistant_lora_path, *strengths)


def assembly(config: RunConfig, runtime: Runtime) -> Assembly:
    """What is done to the base network."""
    tread = config.routing.tread_config
    routes = tread.routes if tread else ()
    return Assembly(
        precision=precision(config),
        pack_on=workplace(config.precision.quantize_via, runtime.device),
        adapter=planning.plan(config.adapter),
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
        assistant=_assistant(config),
        dtype=runtime.compute.dtype,
    )


def parameter_groups(config: RunConfig, adapter: Adapter) -> list[dict[str, Any]]:
    """The trained weights for the optimizer; `factor` is what the learning rate of a group is multiplied by."""
    rate = config.optimization.learning_rate
    return [{"params": list(one.parameters.values()), "factor": one.factor(rate)} for one in adapter.groups()]


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
    return Kept(cache_folder(config) / "packed", whole, packing_of(name))


def _adapter_dtype(config: RunConfig, runtime: Runtime) -> torch.dtype:
    """Trained weights are float32, but for the optimizer that was made for bf16 ones."""
    import torch

    return runtime.compute.dtype if config.optimization.optimizer == "adamw_bf16" else torch.float32


def order(config: RunConfig, datasets: Sequence[Dataset], runtime: Runtime) -> Order:
    """The order in which images are used."""
    return Order(
        datasets,
        seed=runtime.seed,
        sampling=config.data_defaults.data_backend_sampling,
        batches_per_step=config.duration.gradient_accumulation_steps * runtime.processes,
    )


def schedule(config: RunConfig, order: Order) -> Schedule:
    """How long the run is, and when it does what."""
    accumulation = config.duration.gradient_accumulation_steps
    whole = order.batches_in(config.duration.num_train_epochs or 1)
    total = config.duration.max_train_steps or math.ceil(whole / accumulation)
    order.check_length(total)
    return Schedule(
        total_steps=total,
        epochs=order.epoch_of(total * accumulation - 1) + 1,
        accumulation=accumulation,
        checkpoint_every=config.checkpoints.checkpoint_step_interval,
        validate_every=config.validation.validation_step_interval,
        evaluate_every=_evaluate_every(config, order),
    )


def _evaluate_every(config: RunConfig, order: Order) -> int:
    """How many steps lie between two measurements of the loss; 0 for none."""
    options = config.validation
    if options.eval_loss_disable or options.eval_steps_interval is not None:
        return 0 if options.eval_loss_disable else options.eval_steps_interval or 0
    if options.eval_epoch_interval is None:
        return 0
    batches = order.batches_in(options.eval_epoch_interval)
    return max(batches // config.duration.gradient_accumulation_steps, 1)


def learning_rate(config: RunConfig, schedule: Schedule, runtime: Runtime) -> LearningRate:
    """The learning rate at every step."""
    options = config.optimization
    factor = config.duration.train_batch_size * schedule.accumulation * runtime.processes
    peak = options.learning_rate
    if options.lr_scale:
        peak *= math.sqrt(factor) if options.lr_scale_sqrt else factor
    return LearningRate(
        name=options.lr_scheduler,
        peak=peak,
        end=options.lr_end,
        warmup_steps=options.lr_warmup_steps,
        total_steps=schedule.total_steps,
        power=options.lr_power,
    )


def optimizer_settings(config: RunConfig, rate: LearningRate) -> optimizers.Settings:
    """What the optimizer is made with."""
    options = config.optimization
    return optimizers.Settings(
        rate.peak, options.optimizer_beta1, options.optimizer_beta2, dict(options.optimizer_config or {})
    )


def noise_shift(config: RunConfig, height: int, width: int) -> float:
    """The noise shift for latents of this height and width."""
    if config.objective.flow_schedule_auto_shift:
        return family(config).automatic_shift(height, width)
    return config.objective.flow_schedule_shift or 1.0


def levers(config: RunConfig) -> tuple[str, ...]:
    """Options that save memory and are not used, cheapest first."""
    offered = {
        "gradient_checkpointing: true": not config.memory.gradient_checkpointing,
        "base_model_precision: int8-quanto": config.precision.base_model_precision == "no_change",
        "base_model_precision: nf4-bnb": config.precision.base_model_precision == "int8-quanto",
        "a smaller train_batch_size with more gradient_accumulation_steps": config.duration.train_batch_size > 1,
        "optimizer: bnb-adamw8bit": config.optimization.optimizer in {"adamw", "torch-adamw", "bnb-adamw"},
        "a tread_config": config.routing.tread_config is None,
        "blocks_to_swap: 18": memory_plans.offload(config.memory) is None,
        "a smaller lora_rank": config.adapter.lora_rank > 16,
        "a smaller resolution": True,
    }
    return tuple(lever for lever, helps in offered.items() if helps)


def triggers(config: RunConfig) -> list[str]:
    """The words that the adapter listens to."""
    own = [prompt for entry in config.data if isinstance(entry, DataBackend) for prompt in entry.instance_prompt or ()]
    return list(dict.fromkeys([*config.data_defaults.instance_prompt, *own]))


def metadata(
    config: RunConfig, sources: Weights, datasets: Sequence[Dataset], schedule: Schedule, seed: int
) -> dict[str, str]:
    """What the adapter file says about itself."""
    largest = str(max(record.placement.bucket for dataset in datasets for record in dataset.records))
    is_private = config.publishing.private_metadata
    spec = modelspec(
        architecture=family(config).architecture(sources),
        title=config.tracking.tracker_run_name,
        resolution=largest,
        triggers=triggers(config),
        comment=config.publishing.modelspec_comment,
        is_private=is_private,
    )
    run = Session(
        name=config.tracking.tracker_run_name,
        base=_public_name(sources.transformer),
        rank=config.adapter.lora_rank,
        alpha=config.adapter.lora_alpha or config.adapter.lora_rank,
        steps=schedule.total_steps,
        batch_size=config.duration.train_batch_size,
        accumulation=schedule.accumulation,
        learning_rate=config.optimization.learning_rate,
        optimizer=config.optimization.optimizer,
        schedule=config.optimization.lr_scheduler,
        warmup=config.optimization.lr_warmup_steps,
        seed=seed,
        precision=config.precision.mixed_precision,
        resolution=largest,
        images=[_images(dataset) for dataset in datasets],
    )
    return {**spec, **session(run, is_private=is_private)}


def _images(dataset: Dataset) -> Images:
    # Reading millions of captions would hold up the start; the first ones say which tags are frequent.
    captions = (caption for record in islice(dataset.records, 10_000) for caption in record.captions)
    return Images(dataset.id, len(dataset.records), dataset.repeats + 1, dataset.regularise, captions)


def _public_name(source: str) -> str:
    """An id on the Hub as it is, and of a path only the last part: the rest is nobody's business."""
    return Path(source).name if is_folder(source) or looks_like_path(source) else source
