"""What a saved adapter says about itself in its header, by the conventions that other programs read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SPEC = {"modelspec.sai_model_spec": "1.0.1", "modelspec.implementation": "diffusers"}


def modelspec(
    *,
    architecture: str,
    title: str,
    resolution: str,
    triggers: Sequence[str],
    comment: str | None,
    is_private: bool = False,
) -> dict[str, str]:
    """Header entries of an adapter file.

    The names are those of the Stability AI model metadata standard 1.0.1. With `is_private`, only what follows from
    the weights is said.
    """
    entries = {
        **_SPEC,
        "modelspec.architecture": architecture,
        "modelspec.title": title,
        "modelspec.resolution": resolution,
        "modelspec.prediction_type": "flow_matching",
        "modelspec.trigger_phrase": ", ".join(triggers),
        "modelspec.comment": comment or "",
    }
    kept = {name: value for name, value in entries.items() if value}
    return private(kept) if is_private else kept


@dataclass(frozen=True)
class Images:
    """One data set, as far as the header of an adapter file tells of it."""

    name: str
    """The id of the data set, or the name of its folder."""
    count: int
    repeats: int
    """How often each image is used in an epoch, so that 1 is once."""
    is_regularisation: bool
    captions: Iterable[str]


@dataclass(frozen=True)
class Session:
    """One run, as far as the header of an adapter file tells of it; nothing in it depends on the clock."""

    name: str
    base: str
    """The base model, as in the config."""
    rank: int
    alpha: float
    steps: int
    batch_size: int
    accumulation: int
    learning_rate: float
    optimizer: str
    schedule: str
    warmup: int
    seed: int
    precision: str
    resolution: str
    images: Sequence[Images] = ()
    network: str = "networks.lora_flux"
    """The kind of adapter, by the name of the module that makes it in sd-scripts."""


def session(run: Session, *, is_private: bool = False) -> dict[str, str]:
    """Header entries by the names of sd-scripts, which show the rank, the settings and the tags in other programs.

    An entry is only written when it means the same there as here.
    """
    trained = [images for images in run.images if not images.is_regularisation]
    entries = {
        "ss_base_model_version": "flux1",
        "ss_network_module": run.network,
        "ss_network_dim": str(run.rank),
        "ss_network_alpha": f"{run.alpha:g}",
        "ss_output_name": run.name,
        "ss_sd_model_name": run.base,
        "ss_max_train_steps": str(run.steps),
        "ss_total_batch_size": str(run.batch_size),
        "ss_gradient_accumulation_steps": str(run.accumulation),
        "ss_learning_rate": f"{run.learning_rate:g}",
        "ss_optimizer": run.optimizer,
        "ss_lr_scheduler": run.schedule,
        "ss_lr_warmup_steps": str(run.warmup),
        "ss_seed": str(run.seed),
        "ss_mixed_precision": run.precision,
        "ss_resolution": f"({run.resolution.replace('x', ', ')})",
        "ss_num_train_images": str(_uses(trained)),
        "ss_num_reg_images": str(_uses(run.images) - _uses(trained)),
        "ss_dataset_dirs": json.dumps(
            {one.name: {"n_repeats": one.repeats, "img_count": one.count} for one in trained}
        ),
        "ss_tag_frequency": json.dumps({one.name: tag_frequency(one.captions) for one in trained}),
    }
    return private(entries) if is_private else entries


def _uses(images: Iterable[Images]) -> int:
    return sum(one.count * one.repeats for one in images)


def tag_frequency(captions: Iterable[str]) -> dict[str, int]:
    """How many captions have each tag, most frequent first.

    Only what stands in more than one caption is a tag: whole sentences about single images are not for others to read.
    """
    counts = Counter(
        tag for caption in captions for tag in dict.fromkeys(part.strip().lower() for part in caption.split(",")) if tag
    )
    return {tag: count for tag, count in counts.most_common(_MOST_TAGS) if count > 1}


_MOST_TAGS = 500
_PUBLIC = frozenset(
    {
        *_SPEC,
        "format",
        "global_step",
        "lora_adapter_metadata",
        "modelspec.architecture",
        "modelspec.prediction_type",
        "modelspec.resolution",
        "ss_base_model_version",
        "ss_network_alpha",
        "ss_network_args",
        "ss_network_dim",
        "ss_network_module",
        "ss_v2",
        "sshs_model_hash",
    }
)


def private(header: Mapping[str, str]) -> dict[str, str]:
    """The entries that a program needs to use the file; names, prompts, folders and tags are left out."""
    return {name: value for name, value in header.items() if name in _PUBLIC}
