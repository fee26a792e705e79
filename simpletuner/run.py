"""One run from a config to a published adapter: read top to bottom, this file is what the program does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner import seeds
from simpletuner.caching.latents import LatentCache
from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.config import RunConfig
from simpletuner.data.dataset import Dataset, open_all
from simpletuner.data.plan import captions_folder, latents_folder
from simpletuner.data.sampler import Order
from simpletuner.data.sources import DataBackend
from simpletuner.errors import CheckpointError, PublishError, SimpleTunerError
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.assemble import Assembly, assemble
from simpletuner.models.families import FAMILIES
from simpletuner.models.family import Compute, Family, Weights
from simpletuner.models.sources import is_folder
from simpletuner.models.tread import Route
from simpletuner.progress import Failed, Finished, JsonLines, Notice, Published, Reporter, RunStarted, Several
from simpletuner.storage.local import LocalStore, write_whole
from simpletuner.training import card, checkpoint, optimizers, prompts, publish
from simpletuner.training.batches import Batches
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.metadata import modelspec
from simpletuner.training.prompts import Shot
from simpletuner.training.runtime import Runtime
from simpletuner.training.schedules import LearningRate
from simpletuner.training.trackers import Identity, open_tracker
from simpletuner.training.trainer import RESOLVED_CONFIG, Schedule, Trainer
from simpletuner.training.validation import Studio, Validation

if TYPE_CHECKING:
    import torch

CARD = "README.md"
PROGRESS = "progress.jsonl"


@dataclass(frozen=True)
class Outcome:
    """Where everything is after a run."""

    folder: Path
    adapter: Path
    sheet: Path | None
    checkpoints: tuple[Path, ...]
    card: Path
    progress: Path
    published: str | None
    steps: int


def train(config: RunConfig, console: Reporter) -> Outcome:
    """Prepare the data, train, validate, publish.

    Raises:
        SimpleTunerError: Something the user can change went wrong; the message says what.
    """
    folder = Path(config.run.output_dir)
    with ExitStack() as open_things:
        reporter = Several(console, JsonLines(folder / PROGRESS), *_trackers(config, folder))
        open_things.callback(reporter.close)
        open_things.enter_context(_told(reporter))
        reporter.report(RunStarted(str(folder), config.flat()))
        LocalStore(folder).write(RESOLVED_CONFIG, config.dump().encode())
        checkpoints = Checkpoints(folder, config.checkpoints.checkpoints_total_limit)
        resume_from = _resume_from(config, checkpoints, reporter)
        runtime = _runtime(config, resume_from)
        prepared = prepare(config, runtime, reporter)
        trainer = build_trainer(config, prepared, checkpoints, runtime, reporter)
        adapter = trainer.fit(resume_from)
        outcome = _finish(config, prepared, trainer, adapter, reporter)
        reporter.report(Finished(str(folder), outcome.steps))
    return outcome


@contextmanager
def _told(reporter: Reporter) -> Iterator[None]:
    """Whoever follows the run is told about its end too."""
    try:
        yield
    except SimpleTunerError as error:
        reporter.report(Failed(str(error)))
        raise


@dataclass(frozen=True)
class Prepared:
    """Everything that training reads: data sets whose latents and prompts are cached."""

    datasets: tuple[Dataset, ...]
    latents: LatentCache
    prompts: PromptCache
    shots: tuple[Shot, ...]
    weights: Weights


def prepare(config: RunConfig, runtime: Runtime, reporter: Reporter) -> Prepared:
    """Scan the data, then encode what is not cached: the encoders come and go in here."""
    family, weights = _family(config), _weights(config)
    datasets = open_all(
        config.data,
        config.data_defaults,
        train_batch_size=config.duration.train_batch_size,
        cache=_cache_folder(config),
        # Without a seed of its own, a run keeps the crops of the run before, and with them the cache.
        seed=config.run.seed or 0,
        reporter=reporter,
    )
    shots = () if config.validation.validation_disable else prompts.shots(config.validation, runtime.seed)
    texts = _encode_prompts(config, family, weights, datasets, shots, runtime, reporter)
    runtime.release()
    latents, usable = _encode_images(config, family, weights, datasets, runtime, reporter)
    runtime.release()
    return Prepared(usable, latents, texts, shots, weights)


def _encode_prompts(
    config: RunConfig,
    family: Family,
    weights: Weights,
    datasets: Sequence[Dataset],
    shots: Sequence[Shot],
    runtime: Runtime,
    reporter: Reporter,
) -> PromptCache:
    precisions = (config.precision.text_encoder_1_precision, config.precision.text_encoder_2_precision)
    length = config.objective.tokenizer_max_length
    recipe = f"{family.text_recipe(weights, precisions, length)}/{runtime.compute.dtype}"
    folder = partial(captions_folder, entries=config.data, defaults=config.data_defaults, cache=_cache_folder(config))
    usual = TensorCache(LocalStore(folder(datasets[0].options)), recipe)
    wanted: list[tuple[TensorCache, list[str]]] = [(usual, ["", *prompts.texts(config.validation, shots)])]
    for dataset in datasets:
        captions = sorted({caption for record in dataset.records for caption in record.captions})
        wanted.append((TensorCache(LocalStore(folder(dataset.options)), recipe), captions))
    cache = PromptCache()
    encoder = partial(family.text_encoder, weights, precisions, length, runtime.compute)
    cache.fill(wanted, encoder, config.data_defaults.text_encoder_batch_size, reporter)
    return cache


def _encode_images(
    config: RunConfig,
    family: Family,
    weights: Weights,
    datasets: Sequence[Dataset],
    runtime: Runtime,
    reporter: Reporter,
) -> tuple[LatentCache, tuple[Dataset, ...]]:
    compute = _codec_compute(config, runtime)
    recipe = f"{family.latent_recipe(weights)}/{compute.dtype}"
    folder = partial(latents_folder, entries=config.data, defaults=config.data_defaults, cache=_cache_folder(config))
    cache = LatentCache({dataset.id: TensorCache(LocalStore(folder(dataset.options)), recipe) for dataset in datasets})
    codec = partial(
        family.codec,
        weights,
        compute,
        tiling=config.memory.vae_enable_tiling,
        slicing=config.memory.vae_enable_slicing,
    )
    broken = cache.fill(datasets, codec, config.data_defaults.vae_batch_size, reporter)
    return cache, tuple(dataset.without(broken.get(dataset.id, {}), reporter) for dataset in datasets)


def build_trainer(
    config: RunConfig, prepared: Prepared, checkpoints: Checkpoints, runtime: Runtime, reporter: Reporter
) -> Trainer:
    """The network, its adapter, the optimizer and everything else the loop needs."""
    family = _family(config)
    order = Order(
        prepared.datasets,
        seed=runtime.seed,
        sampling=config.data_defaults.data_backend_sampling,
        caption_dropout=config.objective.caption_dropout_probability,
    )
    batches = Batches(prepared.datasets, order, prepared.prompts, prepared.latents, runtime.seed)
    schedule = _schedule(config, order)
    denoiser = family.denoiser(prepared.weights, runtime.compute)
    router = assemble(denoiser, _assembly(config, runtime))
    rate = _learning_rate(config, schedule, runtime)
    optimizer = optimizers.build(
        config.optimization.optimizer, lora.trainable(denoiser.module).values(), _optimizer_settings(config, rate)
    )
    return Trainer(
        objective=config.objective,
        optimization=config.optimization,
        schedule=schedule,
        learning_rate=rate,
        denoiser=denoiser,
        optimizer=runtime.prepare(denoiser.module, optimizer),
        batches=batches,
        validation=_validation(config, family, prepared, runtime, reporter),
        checkpoints=checkpoints,
        runtime=runtime,
        reporter=reporter,
        shift=partial(_shift, config, family),
        levers=_levers(config),
        router=router,
        metadata=_metadata(config, family, prepared),
        resolved_config=config.dump(),
    )


def _assembly(config: RunConfig, runtime: Runtime) -> Assembly:
    adapter = config.adapter
    explicit = adapter.peft_lora_target_modules or ()
    preset = PRESETS.get(adapter.flux_lora_target, ())
    tread = config.routing.tread_config
    routes = tread.routes if tread else ()
    return Assembly(
        precision=config.precision.base_model_precision,
        adapter=lora.LoraPlan(
            targets=lora.targets(preset, explicit),
            rank=adapter.lora_rank,
            alpha=adapter.lora_rank if adapter.lora_alpha is None else adapter.lora_alpha,
            dropout=adapter.lora_dropout,
            init="gaussian" if adapter.lora_init_type == "gaussian" else "default",
        ),
        adapter_dtype=_adapter_dtype(config, runtime),
        gradient_checkpointing=config.memory.gradient_checkpointing,
        routes=[Route(one.start_layer_idx, one.end_layer_idx, one.selection_ratio) for one in routes],
        seed=seeds.derive(runtime.seed, "adapter"),
    )


def _adapter_dtype(config: RunConfig, runtime: Runtime) -> torch.dtype:
    """Trained weights are float32, but for the optimizer that was made for bf16 ones."""
    import torch

    return runtime.compute.dtype if config.optimization.optimizer == "adamw_bf16" else torch.float32


def _schedule(config: RunConfig, order: Order) -> Schedule:
    accumulation = config.duration.gradient_accumulation_steps
    per_epoch = math.ceil(order.batches_per_epoch / accumulation)
    total = config.duration.max_train_steps or math.ceil(
        (config.duration.num_train_epochs or 1) * order.batches_per_epoch / accumulation
    )
    return Schedule(
        total_steps=total,
        epochs=math.ceil(total / per_epoch),
        accumulation=accumulation,
        checkpoint_every=config.checkpoints.checkpoint_step_interval,
        validate_every=config.validation.validation_step_interval,
    )


def _learning_rate(config: RunConfig, schedule: Schedule, runtime: Runtime) -> LearningRate:
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


def _optimizer_settings(config: RunConfig, rate: LearningRate) -> optimizers.Settings:
    options = config.optimization
    return optimizers.Settings(
        rate.peak, options.optimizer_beta1, options.optimizer_beta2, dict(options.optimizer_config or {})
    )


def _validation(
    config: RunConfig, family: Family, prepared: Prepared, runtime: Runtime, reporter: Reporter
) -> Validation:
    codec = partial(
        family.codec,
        prepared.weights,
        _codec_compute(config, runtime),
        tiling=config.memory.vae_enable_tiling,
        slicing=config.memory.vae_enable_slicing,
    )
    steps = config.validation.validation_num_inference_steps
    schedule = partial(family.sampling_schedule, prepared.weights, steps)
    studio = Studio(codec, schedule, prepared.prompts)
    return Validation(config.validation, prepared.shots, studio, Path(config.run.output_dir), runtime, reporter)


def _shift(config: RunConfig, family: Family, height: int, width: int) -> float:
    if config.objective.flow_schedule_auto_shift:
        return family.automatic_shift(height, width)
    return config.objective.flow_schedule_shift or 1.0


def _levers(config: RunConfig) -> tuple[str, ...]:
    """Options that save memory and are not used, cheapest first."""
    offered = {
        "gradient_checkpointing: true": not config.memory.gradient_checkpointing,
        "base_model_precision: int8-quanto": config.precision.base_model_precision == "no_change",
        "base_model_precision: nf4-bnb": config.precision.base_model_precision == "int8-quanto",
        "a smaller train_batch_size with more gradient_accumulation_steps": config.duration.train_batch_size > 1,
        "optimizer: bnb-adamw8bit": config.optimization.optimizer in {"adamw", "torch-adamw", "bnb-adamw"},
        "a tread_config": config.routing.tread_config is None,
        "a smaller lora_rank": config.adapter.lora_rank > 16,
        "a smaller resolution": True,
    }
    return tuple(lever for lever, helps in offered.items() if helps)


def _metadata(config: RunConfig, family: Family, prepared: Prepared) -> dict[str, str]:
    largest = max(record.placement.bucket for dataset in prepared.datasets for record in dataset.records)
    return modelspec(
        architecture=family.architecture(prepared.weights),
        title=config.tracking.tracker_run_name,
        resolution=f"{largest[0]}x{largest[1]}",
        triggers=_triggers(config),
        comment=config.publishing.modelspec_comment,
    )


def _triggers(config: RunConfig) -> list[str]:
    own = [prompt for entry in config.data if isinstance(entry, DataBackend) for prompt in entry.instance_prompt or ()]
    return list(dict.fromkeys([*config.data_defaults.instance_prompt, *own]))


def _finish(config: RunConfig, prepared: Prepared, trainer: Trainer, adapter: Path, reporter: Reporter) -> Outcome:
    folder = Path(config.run.output_dir)
    sheet = trainer.validation.sheet_path
    write_whole(folder / CARD, _card(config, prepared, trainer, sheet.exists()).encode())
    url = _publish(config, folder, trainer.state.step, reporter) if config.publishing.push_to_hub else None
    return Outcome(
        folder=folder,
        adapter=adapter,
        sheet=sheet if sheet.exists() else None,
        checkpoints=tuple(trainer.checkpoints.all()),
        card=folder / CARD,
        progress=folder / PROGRESS,
        published=url,
        steps=trainer.state.step,
    )


def _publish(config: RunConfig, folder: Path, step: int, reporter: Reporter) -> str | None:
    upload = publish.Upload(
        repository=_repository(config),
        private=config.publishing.model_card_private,
        folder=folder,
        files=(
            lora.FILE_NAME,
            CARD,
            "before_and_after.png",
            f"validation_images/step_{step}_*.png",
        ),
        texts={RESOLVED_CONFIG: config.dump(public=True)},
        message=f"Trained for {step} steps",
    )
    try:
        url = publish.push(upload)
    except PublishError as error:
        reporter.report(Notice(str(error)))
        return None
    reporter.report(Published(url))
    return url


def _repository(config: RunConfig) -> str:
    return config.publishing.hub_model_id or config.tracking.tracker_project_name


def _card(config: RunConfig, prepared: Prepared, trainer: Trainer, has_sheet: bool) -> str:
    validation, family = config.validation, _family(config)
    shown = [
        card.Example(shot.prompt, f"validation_images/step_{trainer.state.step}_{shot.name}_{number}_{size}.png")
        for number, shot in enumerate(prepared.shots)
        for size in [f"{shot.width}x{shot.height}"]
    ]
    return card.render(
        card.Card(
            title=config.tracking.tracker_run_name,
            base=None if is_folder(prepared.weights.base) else prepared.weights.base,
            repository=_repository(config),
            licence=family.licence,
            family=family.name,
            safe_for_work=config.publishing.model_card_safe_for_work,
            note=config.publishing.model_card_note or "",
            triggers=_triggers(config),
            prompt=prepared.shots[0].prompt if prepared.shots else (_triggers(config) or [""])[0],
            steps=validation.validation_num_inference_steps,
            guidance=validation.validation_guidance,
            validation=_validation_facts(config),
            training=_training_facts(config, trainer),
            datasets=[_dataset_facts(dataset) for dataset in prepared.datasets],
            sheet="before_and_after.png" if has_sheet else None,
            examples=shown if has_sheet else (),
        )
    )


def _validation_facts(config: RunConfig) -> dict[str, object]:
    options = config.validation
    return {
        "steps": options.validation_num_inference_steps,
        "guidance": options.validation_guidance,
        "real guidance": options.validation_guidance_real,
        "negative prompt": options.validation_negative_prompt,
        "resolution": options.validation_resolution,
    }


def _training_facts(config: RunConfig, trainer: Trainer) -> dict[str, object]:
    return {
        "steps": trainer.state.step,
        "optimizer": config.optimization.optimizer,
        "learning rate": config.optimization.learning_rate,
        "schedule": f"{config.optimization.lr_scheduler}, {config.optimization.lr_warmup_steps} warm-up steps",
        "batch size": config.duration.train_batch_size,
        "gradient accumulation": config.duration.gradient_accumulation_steps,
        "LoRA target, rank, alpha": (
            f"{config.adapter.flux_lora_target}, {config.adapter.lora_rank}, "
            f"{config.adapter.lora_alpha or config.adapter.lora_rank}"
        ),
        "base precision": config.precision.base_model_precision,
        "mixed precision": config.precision.mixed_precision,
        "caption dropout": f"{config.objective.caption_dropout_probability:.0%}",
        "flow shift": "automatic"
        if config.objective.flow_schedule_auto_shift
        else config.objective.flow_schedule_shift,
        "seed": trainer.runtime.seed,
    }


def _dataset_facts(dataset: Dataset) -> dict[str, object]:
    return {
        "id": dataset.id,
        "images": len(dataset.records),
        "repeats": dataset.repeats,
        "sizes": ", ".join(sorted({f"{w}x{h}" for w, h in (one.placement.bucket for one in dataset.records)})),
        "regularisation": dataset.regularise,
    }


def _trackers(config: RunConfig, folder: Path) -> list[Reporter]:
    tracking = config.tracking
    identity = Identity(
        tracking.tracker_project_name, tracking.tracker_run_name, (folder / config.run.logging_dir).absolute()
    )
    return [open_tracker(name, identity) for name in tracking.trackers()]


def _resume_from(config: RunConfig, checkpoints: Checkpoints, reporter: Reporter) -> Path | None:
    wanted = (config.run.resume_from_checkpoint or "none").strip()
    if wanted.lower() in {"none", ""}:
        return None
    if wanted == "latest":
        return checkpoints.newest(lambda text: reporter.report(Notice(text)))
    path = next((one for one in (checkpoints.folder / wanted, Path(wanted)) if one.is_dir()), None)
    if path is None:
        raise CheckpointError(
            f"resume_from_checkpoint: there is no checkpoint '{wanted}' in '{checkpoints.folder}'. There are: "
            f"{', '.join(one.name for one in checkpoints.all()) or 'none'}."
        )
    if reason := checkpoint.damaged(path):
        raise CheckpointError(f"resume_from_checkpoint: '{path}' cannot be used: {reason}. Choose another, or latest.")
    return path


def _runtime(config: RunConfig, resume_from: Path | None) -> Runtime:
    mixed = config.precision.mixed_precision
    return Runtime.start("bf16" if mixed == "bf16" else "no", _seed(config, resume_from))


def _seed(config: RunConfig, resume_from: Path | None) -> int:
    """The seed of the config, or, where that leaves it open, the one of the run that is resumed, or a new one."""
    if config.run.seed is not None and config.run.seed > 0:
        return config.run.seed
    if resume_from is not None:
        return checkpoint.seed_of(resume_from)
    return seeds.fresh()


def _family(config: RunConfig) -> Family:
    return FAMILIES[config.model.model_family]


def _weights(config: RunConfig) -> Weights:
    model = config.model
    return _family(config).weights(
        flavour=model.model_flavour,
        base=model.pretrained_model_name_or_path,
        transformer=model.pretrained_transformer_model_name_or_path,
        transformer_subfolder=model.pretrained_transformer_subfolder,
        vae=model.pretrained_vae_model_name_or_path,
        revision=model.revision,
        variant=model.variant,
    )


def _codec_compute(config: RunConfig, runtime: Runtime) -> Compute:
    import torch

    dtype = torch.float32 if config.precision.vae_dtype in {"fp32", "no"} else torch.bfloat16
    return Compute(runtime.device, dtype)


def _cache_folder(config: RunConfig) -> Path:
    return Path(config.run.cache_dir) if config.run.cache_dir else Path("cache")
