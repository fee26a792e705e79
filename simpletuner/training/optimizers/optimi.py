"""The optimizers of torch-optimi: each has kernels of its own on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simpletuner.training.optimizers.recipe import Library, Recipe, plainly

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from simpletuner.training.optimizers.recipe import Groups

_OPTIMI = Library("optimi", "torch-optimi")


def _optimi(
    name: str, summary: str, *, make: Callable[..., Optimizer] = plainly, limits: bool = False, **defaults: Any
) -> Recipe:
    given = {"kahan_sum": True, **defaults}
    return Recipe(summary, _OPTIMI, f"optimi.{name}", given, make, limits_gradients=limits, goes_by_weight=True)


def _told_where_it_is(made: type[Optimizer], groups: Groups, arguments: dict[str, Any]) -> Optimizer:
    """StableAdamW, told when its weights lie in main memory: it takes up its kernels before it looks at a weight."""
    in_memory = any(weight.device.type == "cpu" for group in groups for weight in group["params"])
    return made(groups, **{**({"triton": False} if in_memory else {}), **arguments})


_BETAS = (0.9, 0.99)

TABLE = {
    "optimi-stableadamw": _optimi(
        "StableAdamW",
        "AdamW that limits large updates by itself, so that max_grad_norm is not used.",
        make=_told_where_it_is,
        limits=True,
        betas=_BETAS,
        weight_decay=0.01,
        eps=1e-6,
    ),
    "optimi-adamw": _optimi(
        "AdamW", "AdamW of optimi, without weight decay.", betas=_BETAS, weight_decay=0.0, eps=1e-6
    ),
    "optimi-lion": _optimi(
        "Lion", "Lion of optimi: one state per weight; wants a learning rate three to ten times lower.", betas=_BETAS
    ),
    "optimi-radam": _optimi("RAdam", "RAdam of optimi: warms itself up.", betas=_BETAS, eps=1e-6, decouple_wd=True),
    "optimi-ranger": _optimi(
        "Ranger", "RAdam that returns part of the way every few steps.", betas=_BETAS, eps=1e-6, k=6, alpha=0.5
    ),
    "optimi-adan": _optimi(
        "Adan",
        "Adan of optimi: also looks at how gradients change; has three betas.",
        betas=(0.98, 0.92, 0.999),
        weight_decay=0.02,
        eps=1e-6,
    ),
    "optimi-adam": _optimi("Adam", "Adam of optimi.", betas=_BETAS, eps=1e-6),
    "optimi-sgd": _optimi("SGD", "Plain gradient descent of optimi; momentum is set by optimizer_config."),
}
