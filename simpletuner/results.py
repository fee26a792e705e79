"""What is left of a run: the model card, the upload, and where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simpletuner import keeping, labels, plans
from simpletuner.config import RunConfig
from simpletuner.data.dataset import Dataset
from simpletuner.followers import PROGRESS
from simpletuner.models.adapters import lycoris_settings, text_planning
from simpletuner.models.adapters.formats.neutral import CLIP, T5
from simpletuner.models.sources import is_local
from simpletuner.preparation import Prepared
from simpletuner.progress import Reporter
from simpletuner.storage.local import LocalStore
from simpletuner.training.objective import choosing
from simpletuner.training.options import Objective
from simpletuner.training.options.steps import as_written
from simpletuner.training.prompts import Shot, usual
from simpletuner.training.publishing import card
from simpletuner.training.publishing.contents import CARD, SHEET
from simpletuner.training.publishing.made import made
from simpletuner.training.publishing.outbox import Label
from simpletuner.training.publishing.publisher import Publication, Publisher
from simpletuner.training.runtime import Runtime
from simpletuner.training.saving import RESOLVED_CONFIG
from simpletuner.training.trainer import Trainer


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


def finish(
    config: RunConfig, prepared: Prepared, trainer: Trainer, adapter: Path, publisher: Publisher | None
) -> Outcome:
    """Write the model card, publish if asked to, and say where everything is."""
    folder = Path(config.run.output_dir)
    sheet, step = trainer.validation.sheet_path, trainer.state.step
    examples = [card.Example(*one) for one in trainer.validation.examples(step)]
    text = render_card(config, prepared, step, trainer.runtime.seed, examples)
    LocalStore(folder).write(CARD, text.encode())
    url = publisher.finish(step) if publisher else None
    return Outcome(
        folder=folder,
        adapter=adapter,
        sheet=sheet if sheet.exists() else None,
        checkpoints=tuple(trainer.saving.checkpoints.all()),
        card=folder / CARD,
        progress=folder / PROGRESS,
        published=url,
        steps=step,
    )


def publisher(config: RunConfig, prepared: Prepared, runtime: Runtime, reporter: Reporter) -> Publisher | None:
    """Uploads checkpoints and the result, when that is asked for."""
    options = config.publishing
    if not options.push_to_hub:
        return None
    public = config.dump(public=True)
    publication = Publication(
        Label(keeping.repository(config), options.model_card_private, options.hub_branch),
        lambda step: {CARD: render_card(config, prepared, step, runtime.seed), RESOLVED_CONFIG: public},
        options.push_checkpoints_to_hub,
    )
    script = keeping.script(config, "post_upload_script", config.checkpoints.post_upload_script, reporter)
    return Publisher(publication, Path(config.run.output_dir), reporter, script)


def render_card(
    config: RunConfig, prepared: Prepared, step: int, seed: int, examples: Sequence[card.Example] = ()
) -> str:
    """The model card of what a run made up to a step, with pictures that lie beside it."""
    family = plans.family(config)
    return card.render(
        card.Card(
            title=config.tracking.tracker_run_name,
            base=None if is_local(prepared.weights.base) else prepared.weights.base,
            repository=card.addressed(keeping.repository(config)),
            licence=family.licence_of(prepared.weights),
            family=family.name,
            safe_for_work=config.publishing.model_card_safe_for_work,
            note=config.publishing.model_card_note or "",
            triggers=labels.triggers(config),
            shot=_shot(config, prepared, seed),
            max_tokens=config.objective.tokenizer_max_length,
            validation=_validation_facts(config, seed),
            training=_training_facts(config, step, seed),
            datasets=[_dataset_facts(dataset) for dataset in prepared.datasets],
            sheet=SHEET if examples else None,
            examples=examples,
            made=made(config.model, config.adapter.lora_type),
            has_average=config.ema.use_ema,
        )
    )


def _shot(config: RunConfig, prepared: Prepared, seed: int) -> Shot:
    """The first picture that is drawn with the whole adapter, or what would be."""
    drawn = (one for one in prepared.shots if one.adapter_strength == 1 and one.start is None)
    return next(drawn, None) or usual(config.validation, (labels.triggers(config) or [""])[0], seed)


def _validation_facts(config: RunConfig, seed: int) -> dict[str, object]:
    options = config.validation
    return {
        "steps": options.validation_num_inference_steps,
        "guidance": options.validation_guidance,
        "real guidance": options.validation_guidance_real,
        "negative prompt": options.validation_negative_prompt or "none",
        "resolution": options.validation_resolution,
        "sampler": options.sampler(),
        "seed": seed if options.validation_seed is None else options.validation_seed,
    }


def _schedule(config: RunConfig) -> str:
    options = config.optimization
    return f"{options.lr_scheduler}, {as_written(options.lr_warmup_steps)} warm-up steps"


def _training_facts(config: RunConfig, step: int, seed: int) -> dict[str, object]:
    return {
        "steps": step,
        "optimizer": config.optimization.optimizer,
        "learning rate": config.optimization.learning_rate,
        "schedule": _schedule(config),
        "batch size": config.duration.train_batch_size,
        "gradient accumulation": config.duration.gradient_accumulation_steps,
        **_adapter_facts(config),
        "base precision": config.precision.base_model_precision,
        "mixed precision": config.precision.mixed_precision,
        "caption dropout": f"{config.objective.caption_dropout_probability:.0%}",
        "flow shift": _shift(config.objective),
        "seed": seed,
    }


def _shift(options: Objective) -> object:
    how = choosing.shifting(options)
    return (options.flow_schedule_shift or "none") if how == "static" else how


def _adapter_facts(config: RunConfig) -> dict[str, object]:
    options = config.adapter
    if config.model.trains_base:
        return {"trained": "all weights"}
    if options.lora_type == "lycoris":
        settings = lycoris_settings.load(options.lycoris_config)
        return {"LyCORIS": ", ".join(f"{name} {value}" for name, value in settings.items() if name != "apply_preset")}
    sizes = f"{options.lora_rank}, {options.lora_alpha or options.lora_rank}"
    texts = ", ".join(_ENCODERS[part] for part in text_planning.wanted(options))
    return {"LoRA target, rank, alpha": f"{_targets(config)}, {sizes}", **({"text encoders": texts} if texts else {})}


_ENCODERS = {CLIP: "CLIP", T5: "T5"}


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
