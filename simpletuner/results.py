"""What is left of a run: the model card, the upload, and where everything is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simpletuner import plans
from simpletuner.config import RunConfig
from simpletuner.data.dataset import Dataset
from simpletuner.errors import PublishError
from simpletuner.models.adapters import lycoris_settings
from simpletuner.models.adapters.adapter import FILE_NAME
from simpletuner.models.sources import is_local
from simpletuner.preparation import Prepared
from simpletuner.progress import Notice, Published, Reporter
from simpletuner.storage.local import LocalStore
from simpletuner.training import card, publish
from simpletuner.training.trainer import RESOLVED_CONFIG, Trainer

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


def finish(config: RunConfig, prepared: Prepared, trainer: Trainer, adapter: Path, reporter: Reporter) -> Outcome:
    """Write the model card, publish if asked to, and say where everything is."""
    folder = Path(config.run.output_dir)
    sheet = trainer.validation.sheet_path
    LocalStore(folder).write(CARD, _card(config, prepared, trainer, sheet.exists()).encode())
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
            FILE_NAME,
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
    validation, family = config.validation, plans.family(config)
    shown = [
        card.Example(shot.prompt, f"validation_images/step_{trainer.state.step}_{shot.name}_{number}_{size}.png")
        for number, shot in enumerate(prepared.shots)
        for size in [f"{shot.width}x{shot.height}"]
    ]
    return card.render(
        card.Card(
            title=config.tracking.tracker_run_name,
            base=None if is_local(prepared.weights.base) else prepared.weights.base,
            repository=_repository(config),
            licence=family.licence_of(prepared.weights),
            family=family.name,
            safe_for_work=config.publishing.model_card_safe_for_work,
            note=config.publishing.model_card_note or "",
            triggers=plans.triggers(config),
            prompt=prepared.shots[0].prompt if prepared.shots else (plans.triggers(config) or [""])[0],
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
        **_adapter_facts(config),
        "base precision": config.precision.base_model_precision,
        "mixed precision": config.precision.mixed_precision,
        "caption dropout": f"{config.objective.caption_dropout_probability:.0%}",
        "flow shift": "automatic"
        if config.objective.flow_schedule_auto_shift
        else config.objective.flow_schedule_shift,
        "seed": trainer.runtime.seed,
    }


def _adapter_facts(config: RunConfig) -> dict[str, object]:
    options = config.adapter
    if options.lora_type == "lycoris":
        settings = lycoris_settings.load(options.lycoris_config)
        return {"LyCORIS": ", ".join(f"{name} {value}" for name, value in settings.items() if name != "apply_preset")}
    sizes = f"{options.lora_rank}, {options.lora_alpha or options.lora_rank}"
    return {"LoRA target, rank, alpha": f"{_targets(config)}, {sizes}"}


def _targets(config: RunConfig) -> str:
    return ", ".join(config.adapter.peft_lora_target_modules or (config.adapter.flux_lora_target,))


def _dataset_facts(dataset: Dataset) -> dict[str, object]:
    return {
        "id": dataset.id,
        "images": len(dataset.records),
        "repeats": dataset.repeats,
        "sizes": ", ".join(sorted({f"{w}x{h}" for w, h in (one.placement.bucket for one in dataset.records)})),
        "regularisation": dataset.regularise,
    }
