"""What runs are made of, and rows of it in which everything, or every two things, come together at least once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import house
from test_resume_data import Entries, captions, drawn, masks, prior, windows

Row = Mapping[str, str]
Group = frozenset[tuple[str, str]]


def plain(folder: Path) -> Entries:
    """Two data sets of different sizes and batches that do not fill up."""
    return [drawn(folder, "subject", 5), drawn(folder, "wide", 3, size=(128, 64), repeats=1)]


KINDS: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "lokr": {
        "lora_type": "lycoris",
        "lycoris_config": {"algo": "lokr", "linear_dim": 4, "linear_alpha": 1, "factor": 4},
    },
    "full": {"model_type": "full", "lora_rank": None, "flux_lora_target": None},
    "encoders": {"train_text_encoder": True, "train_t5xxl": True, "tokenizer_max_length": 24},
    "controlnet": {"controlnet": True, "flux_lora_target": "controlnet"},
    "whole controlnet": {"controlnet": True, "model_type": "full", "lora_rank": None, "flux_lora_target": None},
}
OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "adamw": {},
    "adamw_bf16": {},
    "bnb-adamw8bit": {},
    "adamw_schedulefree": {},
    "prodigy": {"optimizer_config": "d0=1e-3"},
    "soap": {},
    "adafactor": {"optimizer_config": "relative_step=true"},
    "optimi-adan": {},
}
AVERAGES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "every step": {"use_ema": True, "ema_decay": 0.9},
    "every second step": {"use_ema": True, "ema_update_interval": 2, "ema_warmup_steps": 3, "ema_cpu_only": True},
}
DATA: Mapping[str, Callable[[Path], Entries]] = {
    "plain": plain,
    "regularised": prior,
    "windows": windows,
    "captions": captions,
    "masks": masks,
}
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "as usual": {},
    "rollout": {
        "scheduled_sampling_max_step_offset": 2,
        "scheduled_sampling_probability": 0.5,
        "scheduled_sampling_ramp_steps": 4,
        "scheduled_sampling_prob_end": 1.0,
        "scheduled_sampling_reflexflow": True,
    },
    "noises": {
        "input_perturbation": 0.1,
        "input_perturbation_steps": 5,
        "offset_noise": True,
        "multires_noise_iterations": 3,
        "flux_guidance_mode": "random-range",
        "loss_type": "smooth_l1",
    },
    "turns": {"flow_custom_timesteps": "900,500,100", "flow_timesteps_mode": "round-robin", "loss_type": "huber"},
    "mixflow": {"mixflow_enabled": True, "max_timestep": 900},
}
OTHERS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "precision": {"no": {}, "bf16": {"mixed_precision": "bf16"}},
    "accumulation": {"one": {}, "three": {"gradient_accumulation_steps": 3}},
    "routes": {
        "none": {},
        "tread": {"tread_config": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": -2}]}},
    },
    "blocks": {"once": {}, "twice": {"gradient_checkpointing": True}},
    "rate": {"constant": {}, "cosine": {"lr_scheduler": "cosine", "lr_warmup_steps": 2}},
    "dropout": {"none": {"caption_dropout_probability": 0}, "much": {"caption_dropout_probability": 0.4}},
}
WORLD: Mapping[str, Sequence[str]] = {
    "kind": tuple(KINDS),
    "optimizer": tuple(OPTIMIZERS),
    "objective": tuple(OBJECTIVES),
    "data": tuple(DATA),
    "average": tuple(AVERAGES),
    **{name: tuple(values) for name, values in OTHERS.items()},
}


def fits(row: Row) -> bool:
    """Whether these go together; what is not chosen yet stands in no way."""
    kind, data = row.get("kind", ""), row.get("data")
    return not (
        (kind == "full" and data == "regularised")  # its base is gone after a step
        or (kind.endswith("controlnet") and data == "masks")  # a data set has one kind of conditioning
        or (kind.endswith("controlnet") and row.get("routes") == "tread")  # tokens that the ControlNet adds to
    )


def written(folder: Path, row: Row) -> Path:
    """The config of a run as a row says; returns its path."""
    entries = DATA[row["data"]](folder)
    options: dict[str, Any] = {"train_batch_size": 2, "masked_loss_probability": 0.6 if row["data"] == "masks" else 1}
    options |= {"optimizer": row["optimizer"], **OPTIMIZERS[row["optimizer"]], **KINDS[row["kind"]]}
    options |= {**AVERAGES[row["average"]], **OBJECTIVES[row["objective"]]}
    for name, values in OTHERS.items():
        options |= values[row[name]]
    if row["kind"] not in ("full", "whole controlnet", "lokr") and row["dropout"] == "much":
        options["lora_dropout"] = 0.2
    if row["kind"].endswith("controlnet"):
        canny = {"type": "canny", "conditioning_type": "controlnet"}
        entries = [{**entry, "conditioning": canny} for entry in entries]
    return house.write_run(folder, entries, **{"learning_rate": 1e-3, **options})


def covering(strength: int) -> list[Row]:
    """Rows in which so many values of different kinds come together in every way that fits, found greedily."""
    left = {
        frozenset(zip(names, values, strict=True))
        for names in combinations(WORLD, strength)
        for values in product(*(WORLD[name] for name in names))
        if fits(dict(zip(names, values, strict=True)))
    }
    rows = []
    while left:
        rows.append(_row(min(left, key=sorted), left, len(rows)))
        left = {group for group in left if not group <= set(rows[-1].items())}
    return rows


def _row(begin: Group, left: set[Group], number: int) -> Row:
    """A row around a group that is left, which takes in as many others as it can."""
    row = dict(sorted(begin))
    for name in (name for name in WORLD if name not in row):
        row[name] = max(_choices(row, name, number), key=lambda value: _won({**row, name: value}, name, left))
    return {name: row[name] for name in WORLD}


def _choices(row: Row, name: str, number: int) -> Iterator[str]:
    """What fits, beginning at another place for each row, so that those that win nothing differ too."""
    values = WORLD[name]
    turned = (values[(number + place) % len(values)] for place in range(len(values)))
    return (value for value in turned if fits({**row, name: value}))


def _won(row: Row, name: str, left: set[Group]) -> int:
    chosen = set(row.items())
    return sum((name, row[name]) in group and group <= chosen for group in left)
