"""Optimizers that look at a weight as a matrix: by its rows and columns, or by its directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simpletuner.training.optimizers.recipe import TORCH, Library, Recipe

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from simpletuner.training.optimizers.recipe import Groups

_MORE = Library("pytorch_optimizer", "pytorch-optimizer")


def _split(made: type[Optimizer], groups: Groups, arguments: dict[str, Any]) -> Optimizer:
    """Muon for matrices, and AdamW with the same rate for what is none, such as biases."""
    rate, decay = arguments["lr"], arguments["weight_decay"]
    parts = [part for group in groups for part in _parts(group)]
    other = {"adamw_lr": rate, "adamw_wd": decay}
    return made(parts, **{**other, **arguments})


def _parts(group: dict[str, Any]) -> list[dict[str, Any]]:
    sides: dict[bool, list[Any]] = {True: [], False: []}
    for parameter in group["params"]:
        sides[parameter.ndim >= 2].append(parameter)
    return [{**group, "params": side, "use_muon": is_matrix} for is_matrix, side in sides.items() if side]


def _without_rate(made: type[Optimizer], groups: Groups, arguments: dict[str, Any]) -> Optimizer:
    """Adafactor, with no learning rate where it is told to make its own."""
    rate = None if arguments.get("relative_step") else arguments["lr"]
    return made(groups, **{**arguments, "lr": rate})


def _in_rows(made: type[Optimizer], groups: Groups, arguments: dict[str, Any]) -> Optimizer:
    """SOAP whose directions lie in memory row by row, as they do when they are loaded: the order decides last bits."""
    optimizer = made(groups, **arguments)
    optimizer.register_step_post_hook(_lay_out)
    return optimizer


def _lay_out(optimizer: Optimizer, *_: object) -> None:
    for state in optimizer.state.values():
        state["Q"] = [one.contiguous() if len(one) else one for one in state["Q"]]


def muon(summary: str, *, instead_of: str = "") -> Recipe:
    """Muon, under any of its names."""
    return Recipe(
        summary,
        _MORE,
        "pytorch_optimizer.Muon",
        {"momentum": 0.95, "weight_decay": 0.1, "use_adjusted_lr": True},
        make=_split,
        instead_of=instead_of,
    )


def came(summary: str, *, instead_of: str = "", **defaults: Any) -> Recipe:
    """CAME, under any of its names."""
    given = {"betas": (0.9, 0.999, 0.9999), "weight_decay": 0.01, **defaults}
    return Recipe(summary, _MORE, "pytorch_optimizer.CAME", given, instead_of=instead_of)


def adafactor(summary: str, *, instead_of: str = "", **defaults: Any) -> Recipe:
    """The Adafactor of transformers, under any of its names."""
    given = {"relative_step": False, "scale_parameter": False, "warmup_init": False, **defaults}
    path = "transformers.optimization.Adafactor"
    return Recipe(summary, TORCH, path, given, make=_without_rate, goes_by_weight=True, instead_of=instead_of)


TABLE = {
    "adafactor": adafactor(
        "Adafactor of transformers: little memory, by rows and columns; relative_step=true makes a rate of its own."
    ),
    "soap": Recipe(
        "SOAP: Adam in the directions that gradients have; learns fast and needs much memory.",
        _MORE,
        "pytorch_optimizer.SOAP",
        {"betas": (0.95, 0.95), "weight_decay": 0.01, "eps": 1e-8, "precondition_frequency": 10},
        make=_in_rows,
        called={"max_precond_dim": "max_precondition_dim", "normalize_grads": "normalize_gradient"},
    ),
    "muon": muon("Muon: makes every direction of a matrix move alike; biases and norms are left to AdamW."),
    "came": came("CAME: as small as Adafactor, and steadier; has three betas."),
}
