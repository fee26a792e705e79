"""What LyCORIS settings hold for which layers: those at the top for all, those of a map for a kind or for names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from simpletuner.models.adapters.lycoris_algorithms import ALGORITHMS

MAPS = ("module_algo_map", "name_algo_map")
_OLD_NAMES = {"use_cp": "use_tucker", "use_conv_cp": "use_tucker", "constrain": "constraint"}
IN_MAPS = {"dim": "linear_dim", "alpha": "linear_alpha"}
"""What the maps call otherwise than the top of the JSON."""
OF_ALL = frozenset({"dropout", "rank_dropout", "module_dropout"})
"""What the package takes for all layers alike."""
SWITCHES = {
    "use_tucker": "use_tucker",
    "use_scalar": "use_scalar",
    "rescaled": "rescaled",
    "dora_wd": "weight_decompose",
    "wd_on_output": "wd_on_out",
    "full_matrix": "full_matrix",
    "bypass_mode": "bypass_mode",
    "unbalanced_factorization": "unbalanced_factorization",
    "decompose_both": "decompose_both",
    "rs_lora": "rs_lora",
}
NUMBERS = {
    "conv_dim": "conv_lora_dim",
    "conv_alpha": "conv_alpha",
    "dropout": "dropout",
    "rank_dropout": "rank_dropout",
    "module_dropout": "module_dropout",
    "factor": "factor",
    "block_size": "block_size",
    "constraint": "constraint",
}
SIZES = ("multiplier", "linear_dim", "linear_alpha")
OPTIONS = {**SWITCHES, **NUMBERS}
"""Our names, which are those of the JSON, and the package's inside."""
TOP = frozenset({*OPTIONS, *SIZES, *_OLD_NAMES, "algo", "apply_preset"})
"""What may stand at the top."""
ENTRY = frozenset({*OPTIONS, *IN_MAPS, *_OLD_NAMES, "algo"}) - OF_ALL
"""What may stand in an entry of a map."""


@dataclass(frozen=True)
class Place:
    """The settings of some layers."""

    map: str
    """The map they stand in; empty at the top."""
    key: str
    """The entry of the map."""
    chosen: str
    """The algorithm that stands there, if one does."""
    algorithms: tuple[str, ...]
    """The same, or else those that may come into question."""
    own: Mapping[str, Any]
    """What stands there, by the names at the top."""
    whole: Mapping[str, Any]
    """With what holds there besides."""

    def __str__(self) -> str:
        return f"{self.map} {self.key}".strip()


def places(given: Mapping[str, Any]) -> Iterator[Place]:
    """The top of the settings, then every entry of the maps."""
    top, algorithm = named(given), _algorithm(given) or "lora"
    yield Place("", "", algorithm, (algorithm,), top, top)
    found = [(name, str(key), one) for name in MAPS for key, one in _map(given, name).items()]
    # A kind of layers within another one of the map takes over the algorithm of that one.
    outer = [_algorithm(one) for name, _, one in found if name == MAPS[0]]
    for name, key, one in found:
        around = (algorithm, *(other for other in outer if other and name == MAPS[0]))
        own, chosen = named(one), _algorithm(one)
        yield Place(name, key, chosen, (chosen,) if chosen else tuple(dict.fromkeys(around)), own, {**top, **own})


def _map(given: Mapping[str, Any], name: str) -> dict[Any, Mapping[str, Any]]:
    preset = given.get("apply_preset")
    found = preset.get(name) if isinstance(preset, Mapping) else None
    return {key: one for key, one in found.items() if isinstance(one, Mapping)} if isinstance(found, Mapping) else {}


def _algorithm(given: Mapping[str, Any]) -> str:
    name = given.get("algo") or ""
    return ALGORITHMS.ours(name) or str(name)


def named(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under today's names at the top; null is as good as nothing."""
    found = {_OLD_NAMES.get(name, IN_MAPS.get(name, name)): value for name, value in given.items()}
    known = {*OPTIONS, *SIZES}
    return {name: plain(name, value) for name, value in found.items() if name in known and value is not None}


def plain(name: str, value: Any) -> Any:
    """A switch or a number, also where it was written as text; what is neither stays as it is."""
    if name in SWITCHES:
        return truth(value)
    if not is_number(value):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


def truth(value: Any) -> bool:
    """Whether a switch is on."""
    return value.strip().lower() in {"true", "1", "yes", "on"} if isinstance(value, str) else bool(value)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, also one that was written as text."""
    try:
        return not isinstance(value, bool) and abs(float(value)) < float("inf")
    except (TypeError, ValueError):
        return False
