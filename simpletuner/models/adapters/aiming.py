"""Whether the options about an adapter hit layers of the network, seen from its outline, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError, Problem
from simpletuner.models.adapters import planning
from simpletuner.models.adapters.formats.neutral import TRANSFORMER
from simpletuner.models.adapters.layers import choose
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.lycoris import LycorisPlan
from simpletuner.models.adapters.presets import FUSED, matches
from simpletuner.models.adapters.starts import FROM_NOTHING

if TYPE_CHECKING:
    from simpletuner.models.options import Adapter

Shapes = Mapping[str, tuple[int, int]]


def problems(options: Adapter, known: Shapes, classes: Mapping[str, str], more: Sequence[str]) -> Iterator[Problem]:
    """What hits nothing, or does not fit.

    Args:
        options: About the adapter.
        known: Outputs and inputs of every linear layer of the network, by name.
        classes: The class of every part of the network, by name.
        more: Layers that the adapter must have besides those that the options name.
    """
    plan = planning.plan(options, TRANSFORMER, tuple(more))
    if isinstance(plan, LycorisPlan):
        yield from (Problem("lycoris_config", what) for what in _missed(plan.settings.preset, classes))
    elif isinstance(plan, LoraPlan):
        yield from _unknown(options.peft_lora_target_modules or (), known)
        yield from _unchosen(plan, options, known)


def _unknown(named: Sequence[str], known: Shapes) -> Iterator[Problem]:
    """Names of no layer beside others that are; those of joined projections may be left from configs in use."""
    hit = [one for one in named if any(matches(name, [one]) for name in known)]
    for one in named if hit else ():
        if one not in hit and one not in FUSED:
            yield Problem("peft_lora_target_modules", f"no layer of the network is called {one}; leave it out")


def _unchosen(plan: LoraPlan, options: Adapter, known: Shapes) -> Iterator[Problem]:
    try:
        layers = choose(list(known), plan.targets, plan.rank, plan.alpha, plan.shape)
    except ModelError as error:
        yield _problem(str(error).rstrip("."), options)
        return
    for layer in () if plan.init in FROM_NOTHING else layers:
        most = min(known[layer.name])
        if layer.rank > most:
            what = f"{plan.init} cannot give rank {layer.rank} to '{layer.name}', which has {most} directions"
            yield Problem("lora_init_type", f"{what}; lower the rank, or use default")
            return


def _problem(said: str, options: Adapter) -> Problem:
    """A message with the option that it begins with, or else with the one that chooses the layers."""
    first = re.match(r"\w+", said)
    if first and first[0] in type(options).model_fields:
        return Problem(first[0], said[first.end() :].lstrip(": "))
    chosen = "peft_lora_target_modules" if options.peft_lora_target_modules else "flux_lora_target"
    return Problem(chosen, said)


def _missed(preset: Mapping[str, Any], classes: Mapping[str, str]) -> Iterator[str]:
    """Parts that the settings of LyCORIS name and the network does not have."""
    match: Callable[[str, str], object] = fnmatch if preset.get("use_fnmatch") else _begins
    kinds = sorted(set(classes.values()))
    for option in ("target_module", "module_algo_map"):
        for one in preset.get(option) or ():
            if not any(kind.endswith(one) for kind in kinds):
                yield f"the network has no {one} ({option}); it has {', '.join(kinds)}"
    for option in ("target_name", "name_algo_map"):
        for one in preset.get(option) or ():
            if not any(match(name, one) for name in classes):
                example = next(name for name, kind in classes.items() if kind == "Linear")
                yield f"no part of the network is called {one} ({option}); names are such as {example}"


def _begins(name: str, pattern: str) -> bool:
    return re.match(pattern, name) is not None
