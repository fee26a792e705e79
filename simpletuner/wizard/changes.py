"""From answers to the files that they make: what was not asked, or not answered differently, stays as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from simpletuner.wizard.answers import CARDS, OWN_PROMPT, Answers, Card, slug
from simpletuner.wizard.documents import (
    ASKED_PROMPTS,
    Documents,
    answers_in,
    drop,
    get,
    named_file,
    options_of,
    pictures_entry,
    prompts_in,
    put,
)
from simpletuner.wizard.models import BASE, PARTS, TRANSFORMER


def changed(documents: Documents, answers: Answers, working: Path) -> Documents:
    """The files with the answers in them.

    Args:
        documents: What the files hold now.
        answers: What was answered.
        working: Where relative paths in a config start.
    """
    known = answers_in(documents)
    library = _library(prompts_in(documents), known.prompts, answers.prompts)
    config = json.loads(json.dumps(documents.config))
    options = options_of(config) if config else config
    assert isinstance(options, dict)
    for name, value in _settings(documents, known, answers, working):
        drop(options, name) if value is None else put(options, name, value)
    return replace(documents, config=config, data=_data(documents.data, known, answers), library=library)


def shown(path: Path, working: Path) -> str:
    """A path as one would type it: relative where it is below the working folder."""
    absolute = working / path
    return (absolute.relative_to(working) if absolute.is_relative_to(working) else absolute).as_posix()


def _settings(documents: Documents, known: Answers, answers: Answers, working: Path) -> Iterator[tuple[str, Any]]:
    """The options to set, in the order of a new file; None takes one out."""
    if documents.is_new:
        yield from _BEGINNING.items()
    yield from _model(known, answers)
    yield from _named_files(documents, working)
    if answers.output != known.output:
        yield "output_dir", answers.output
    if answers.name != known.name:
        yield "tracker_run_name", answers.name
    if answers.steps != known.steps:
        yield from _length(answers, is_new=documents.is_new)
    if answers.card:
        yield from _for_card(CARDS[answers.card])
    if documents.is_new:
        yield from _LEARNING.items()
    if answers.prompts != known.prompts and not documents.library:
        yield "validation_prompt", None
    if answers.flavour != known.flavour:
        yield from _guidance(options_of(documents.config), known.flavour, answers.flavour)
    yield from _publishing(known, answers)


def _model(known: Answers, answers: Answers) -> Iterator[tuple[str, Any]]:
    if answers.base != known.base:
        yield TRANSFORMER, None
        yield "pretrained_transformer_subfolder", None
        yield BASE, answers.base or None
    if answers.flavour != known.flavour:
        yield "model_flavour", answers.flavour or None
    for option in PARTS:
        if answers.parts.get(option) != known.parts.get(option):
            yield option, answers.parts.get(option)


def _named_files(documents: Documents, working: Path) -> Iterator[tuple[str, str]]:
    """What points to the other two files, unless it does so already."""
    options = options_of(documents.config)
    for name, path in (("data_backend_config", documents.data_path), ("user_prompt_library", documents.library_path)):
        if named_file(options, name, documents.config_path, working) != path:
            yield name, shown(path, working)


def _length(answers: Answers, *, is_new: bool) -> Iterator[tuple[str, Any]]:
    yield "max_train_steps", answers.steps
    if is_new:
        quarter = max(1, answers.steps // 4)
        yield "checkpoint_step_interval", quarter
        yield "checkpoints_total_limit", 4
        yield "validation_step_interval", quarter


def _for_card(card: Card) -> Iterator[tuple[str, Any]]:
    yield "mixed_precision", "bf16"
    yield "base_model_precision", card.precision
    yield "text_encoder_2_precision", card.text_precision
    yield "gradient_checkpointing", card.gradient_checkpointing
    yield "optimizer", card.optimizer
    yield "train_batch_size", card.batch_size
    yield "validation_resolution", f"{card.resolution}x{card.resolution}"


def _guidance(options: Mapping[str, Any], old: str, new: str) -> Iterator[tuple[str, Any]]:
    """Take out what the old flavour needed, unless it was changed since, and set what the new one needs."""
    for name, value in _GUIDANCE.get(old, {}).items():
        if get(options, name) == value:
            yield name, None
    yield from _GUIDANCE.get(new, {}).items()


def _publishing(known: Answers, answers: Answers) -> Iterator[tuple[str, Any]]:
    if answers.publish != known.publish:
        yield "push_to_hub", answers.publish
    if answers.publish and answers.repository != known.repository:
        yield "hub_model_id", answers.repository


def _data(data: Sequence[Any], known: Answers, answers: Answers) -> list[Any]:
    """The data file: the picture folder with the answers in it, and all other entries as they are."""
    old = pictures_entry(data)
    new = dict(old) if old is not None else {"id": _free_id(data, answers), "type": "local"}
    new |= dict(_entry(known, answers))
    if old is None:
        return [*data, new] if data else [new, _TEXT_CACHE]
    return [new if entry is old else entry for entry in data]


def _entry(known: Answers, answers: Answers) -> Iterator[tuple[str, Any]]:
    if answers.pictures != known.pictures:
        yield "instance_data_dir", _typed(answers.pictures)
    if answers.captions != known.captions:
        yield "caption_strategy", answers.captions
    if answers.captions == OWN_PROMPT and answers.trigger != known.trigger:
        yield "instance_prompt", answers.trigger
    if answers.card:
        yield "resolution", CARDS[answers.card].resolution
        yield "resolution_type", "pixel_area"


def _typed(folder: str) -> str:
    """A path as it was typed; only the home folder is written out, which not every program does."""
    return str(Path(folder).expanduser()) if folder.startswith("~") else folder


def _free_id(data: Sequence[Any], answers: Answers) -> str:
    taken = {str(entry.get("id")) for entry in data if isinstance(entry, Mapping)}
    wanted = slug(answers.name) or "pictures"
    return next(name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, len(data) + 3))) if name not in taken)


def _library(library: Mapping[str, Any], old: tuple[str, ...], new: tuple[str, ...]) -> dict[str, Any]:
    """The library with the new prompts; those that stay keep their names, and what was not asked about stays too."""
    if new == old:
        return dict(library)
    names = dict(zip(old, library, strict=False))
    made: dict[str, Any] = {}
    for text in new:
        name = names.get(text)
        made[name or _free_name(text, {*library, *made})] = library[name] if name else text
    return made | dict(list(library.items())[ASKED_PROMPTS:])


def _free_name(text: str, taken: set[str]) -> str:
    wanted = slug(text) or "prompt"
    return next(name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)


_BEGINNING = {"model_family": "flux", "model_type": "lora"}

_LEARNING = {
    "learning_rate": 1e-4,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 50,
    "lora_rank": 16,
    "validation_num_inference_steps": 20,
    "validation_disable_unconditional": True,
    "seed": 42,
}
"""Settings of a new config that are not asked for; experience shows that they serve for most LoRAs."""

_GUIDANCE: Mapping[str, Mapping[str, Any]] = {
    "fluxbooru": {
        "flux_guidance_value": 3.5,
        "validation_guidance_real": 6.0,
        "validation_num_inference_steps": 28,
    }
}
"""How a flavour that is not guidance-distilled is trained and drawn with."""

_TEXT_CACHE = {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": True}
