"""The optimizers by name, how one is made, and how its state is taken up again exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ConfigError, Problem
from simpletuner.schema import Choice
from simpletuner.training.optimizers import adaptive, bits, matrix, names, optimi, torch_own
from simpletuner.training.optimizers.recipe import Recipe, Settings, as_groups

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from simpletuner.training.optimizers.recipe import Groups

__all__ = ["OPTIMIZERS", "Recipe", "Settings", "build", "restore", "settings_of", "try_out"]

logger = logging.getLogger(__name__)

OPTIMIZERS: Choice[Recipe] = Choice(
    "optimizer",
    {
        **torch_own.TABLE,
        **bits.TABLE,
        **adaptive.TABLE,
        **optimi.TABLE,
        **matrix.TABLE,
        **names.STAND_INS,
    },
    later=torch_own.LATER,
    aliases=names.ALIASES,
)


def build(name: str, parameters: Iterable[Any], settings: Settings) -> Optimizer:
    """Make the named optimizer.

    Args:
        name: A name of the table.
        parameters: Weights, or groups of them, each with the `factor` of its learning rate.
        settings: What the user says of it.

    Raises:
        ConfigError: Its package is not installed, or it does not take a setting, or cannot do what is asked for.
    """
    recipe, groups = OPTIMIZERS[name], as_groups(parameters)
    if said := recipe.library.missing():
        raise ConfigError("the config", [Problem("optimizer", f"'{name}' {said}")])
    factors = [group.pop("factor", 1.0) for group in groups]
    if recipe.has_one_rate_with(settings) and len(set(factors)) > 1:
        raise ConfigError("the config", [Problem("optimizer", f"'{name}' {_ONE_RATE}")])
    given = {
        id(parameter): factor for group, factor in zip(groups, factors, strict=True) for parameter in group["params"]
    }
    try:
        with redirect_stdout(StringIO()) as said_by_it:
            made = recipe.build(groups, settings)
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError("the config", [Problem("optimizer_config", f"{error}, for optimizer '{name}'")]) from error
    for line in said_by_it.getvalue().splitlines():
        logger.info("%s", line)
    for group in made.param_groups:
        # Muon gives weights that are no matrices a rate of their own, where it is asked for one.
        own = 1.0 if group["lr"] is None else group["lr"] / settings.learning_rate
        group["factor"] = given[id(group["params"][0])] * own
    return made


_ONE_RATE = (
    "has one learning rate for all weights, and this run has several; use prodigy, or leave out the options that "
    "give weights a rate of their own, such as text_encoder_lr and the ratio of LoRA+"
)


def try_out(name: str, settings: Settings) -> None:
    """Make the named optimizer for nothing, to hear before all other work what it does not take.

    Raises:
        ConfigError: As `build` does.
    """
    import torch

    build(name, [torch.nn.Parameter(torch.zeros(2, 2))], settings)


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What each group of a new optimizer was made with."""
    import torch

    plain = (set(group) - {"params"} for group in optimizer.param_groups)
    return [
        {key: group[key] for key in sorted(keys) if not isinstance(group[key], torch.Tensor)}
        for keys, group in zip(plain, optimizer.param_groups, strict=True)
    ]


def restore(optimizer: Optimizer, state: Mapping[str, Any]) -> list[int]:
    """Load a state exactly: torch would round what is kept in another precision than the weights.

    Returns for each group the number of the one in the state whose settings it has now.

    Raises:
        ValueError: The state is of other groups of weights.
    """
    import torch

    origins, groups = _divided(state["param_groups"], [len(group["params"]) for group in optimizer.param_groups])
    optimizer.load_state_dict({**state, "param_groups": groups})
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    for parameter, number in zip(parameters, numbers, strict=True):
        held = optimizer.state.get(parameter, {})
        for key, value in state["state"].get(number, {}).items():
            if isinstance(value, torch.Tensor) and held[key].dtype != value.dtype:
                held[key] = value.to(parameter.device, copy=True)
    return origins


def _divided(saved: Groups, sizes: Sequence[int]) -> tuple[list[int], Groups]:
    """Saved groups, and their numbers, with as many weights in each as there are now.

    They may differ where updates in the backward pass, with a group for each weight, were switched on or off.
    """
    before = [len(group["params"]) for group in saved]
    if sum(before) != sum(sizes) or {1} not in ({*before}, {*sizes}):
        return [*range(len(saved))], saved  # torch refuses what does not fit
    whole = [(number, weight) for number, group in enumerate(saved) for weight in group["params"]]
    parts = [whole[last - size : last] for size, last in zip(sizes, accumulate(sizes), strict=True)]
    origins = [part[0][0] for part in parts]
    weights = ([weight for _, weight in part] for part in parts)
    return origins, [{**saved[origin], "params": own} for origin, own in zip(origins, weights, strict=True)]
