"""Optimizers that find the learning rate by themselves, and schedule-free ones, which need no schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simpletuner.training.optimizers.recipe import Library, Recipe

_PLUS = Library("prodigyplus", "prodigy-plus-schedule-free")
_PRODIGY = Library("prodigyopt", "prodigyopt")
_FREE = Library("schedulefree", "schedulefree")
_DADAPT = Library("dadaptation", "dadaptation")


def _free(name: str, summary: str, **defaults: Any) -> Recipe:
    return Recipe(summary, _FREE, f"schedulefree.{name}", defaults, averages=True, keeps_schedule=False)


def _dadapt(path: str, summary: str, defaults: Mapping[str, Any]) -> Recipe:
    return Recipe(
        summary,
        _DADAPT,
        f"dadaptation.{path}",
        defaults,
        finds_rate=True,
        has_one_rate=True,
        reports="dadapt_d",
    )


_BETAS = (0.9, 0.999)
_ADAM = {"betas": _BETAS, "eps": 1e-8}
_ADAN = {"betas": (0.98, 0.92, 0.99), "weight_decay": 0.02, "eps": 1e-8}

TABLE = {
    "prodigy": Recipe(
        "Prodigy Plus Schedule-Free: finds the learning rate by itself and needs no schedule.",
        _PLUS,
        "prodigyplus.ProdigyPlusScheduleFree",
        {"betas": (0.9, 0.99), "split_groups_mean": True},
        finds_rate=True,
        averages=True,
        limits_gradients=True,
        stops_by="prodigy_steps",
        reports="prodigy_d",
    ),
    "prodigyopt": Recipe(
        "Prodigy as it was published: finds the learning rate by itself; goes well with a cosine schedule.",
        _PRODIGY,
        "prodigyopt.Prodigy",
        {"betas": _BETAS},
        finds_rate=True,
        has_one_rate=True,
        reports="prodigy_d",
    ),
    "adamw_schedulefree": _free(
        "AdamWScheduleFree",
        "AdamW that needs no schedule: what is saved and drawn with is an average of what it trains.",
        betas=_BETAS,
        weight_decay=0.01,
        eps=1e-8,
    ),
    "adamw_schedulefree+aggressive": _free(
        "AdamWScheduleFree",
        "Schedule-free AdamW with a tenth of the weight decay.",
        betas=_BETAS,
        weight_decay=1e-3,
        eps=1e-6,
    ),
    "adamw_schedulefree+no_kahan": _free(
        "AdamWScheduleFree",
        "As adamw_schedulefree+aggressive: in float32, in which weights are trained, Kahan summation adds nothing.",
        betas=_BETAS,
        weight_decay=1e-3,
        eps=1e-6,
    ),
    "radam_schedulefree": _free(
        "RAdamScheduleFree", "Schedule-free RAdam: needs no warm-up either.", betas=_BETAS, eps=1e-8
    ),
    "sgd_schedulefree": _free(
        "SGDScheduleFree", "Schedule-free gradient descent; wants a much higher learning rate.", momentum=0.9
    ),
    "dadapt-adam": _dadapt("DAdaptAdam", "Adam with D-Adaptation: finds the learning rate by itself.", _ADAM),
    "dadapt-adam-preprint": _dadapt(
        "experimental.DAdaptAdamPreprint", "Adam with D-Adaptation as first published.", _ADAM
    ),
    "dadapt-adagrad": _dadapt("DAdaptAdaGrad", "Adagrad with D-Adaptation.", {"momentum": 0.0, "eps": 1e-6}),
    "dadapt-adan": _dadapt("DAdaptAdan", "Adan with D-Adaptation.", _ADAN),
    "dadapt-adan-ip": _dadapt("experimental.DAdaptAdanIP", "Adan with the inner-product form of D-Adaptation.", _ADAN),
    "dadapt-lion": _dadapt("DAdaptLion", "Lion with D-Adaptation.", {"betas": (0.9, 0.99)}),
    "dadapt-sgd": _dadapt("DAdaptSGD", "Gradient descent with D-Adaptation.", {"momentum": 0.0}),
}
