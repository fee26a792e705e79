"""What a LyCORIS JSON file says, checked without the package: algorithm, sizes, and which layers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simpletuner.models.adapters.lycoris_algorithms import ALGORITHMS, READ, idle
from simpletuner.models.adapters.lycoris_places import (
    ENTRY,
    IN_MAPS,
    MAPS,
    OF_ALL,
    OPTIONS,
    TOP,
    Place,
    is_number,
    places,
    truth,
)
from simpletuner.schema import did_you_mean

DEFAULT_PATH = "config/lycoris_config.json"

DEFAULT_TARGETS = ("Attention",)
_PRESET = {"target_module", "target_name", "module_algo_map", "name_algo_map", "exclude_name", "use_fnmatch"}
_IGNORED = {
    "enable_conv": "the model has no convolutions",
    "lora_prefix": "the names in the file begin with lycoris",
    "unet_target_module": "target_module says which layers are trained",
    "unet_target_name": "target_name says which layers are trained",
    "text_encoder_target_module": "no text encoder is trained with LyCORIS",
    "text_encoder_target_name": "no text encoder is trained with LyCORIS",
}
"""What may stand in presets of other programs, and why it does nothing."""


@dataclass(frozen=True)
class LycorisSettings:
    """Settings of a LyCORIS adapter."""

    algorithm: str = "lora"
    multiplier: float = 1.0
    dim: int = 4
    alpha: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    """By the names that the package has inside."""
    preset: Mapping[str, Any] = field(default_factory=dict)
    """Which layers, as the package takes it."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """As the user wrote them; they go into the file of the adapter."""

    @property
    def keeps_lengths(self) -> bool:
        """Whether lengths of the weights of some layers are trained apart (DoRA)."""
        found = ((place, name) for place in places(self.given) for name in place.algorithms)
        return any(place.whole.get("dora_wd") and "dora_wd" in READ[name] for place, name in found)

    @staticmethod
    def read(given: Mapping[str, Any]) -> LycorisSettings:
        """Settings that `problems` has found nothing wrong with."""
        top, *entries = places(given)
        preset = {"target_module": list(DEFAULT_TARGETS), **(given.get("apply_preset") or {})}
        preset = {name: value for name, value in preset.items() if name in _PRESET}
        for name in MAPS:
            if name in preset:
                preset[name] = {one.key: _entry(one) for one in entries if one.map == name}
        return LycorisSettings(
            algorithm=top.chosen,
            multiplier=float(top.own.get("multiplier", 1.0)),
            dim=int(top.own.get("linear_dim", 4)),
            alpha=float(top.own.get("linear_alpha", 1.0)),
            options=_options(top),
            preset=preset,
            given=dict(given),
        )


def _options(place: Place) -> dict[str, Any]:
    return {OPTIONS[name]: value for name, value in place.own.items() if name in OPTIONS}


def _entry(place: Place) -> dict[str, Any]:
    """An entry of a map in the words of the package, which does not know here all that it knows at the top."""
    sizes = {short: place.own[name] for short, name in IN_MAPS.items() if name in place.own}
    return {**({"algo": place.chosen} if place.chosen else {}), **sizes, **_options(place)}


def load(value: Mapping[str, Any] | str | None) -> Mapping[str, Any]:
    """What `lycoris_config` stands for: the object itself, or that in a JSON file.

    Raises:
        ValueError: The file is missing or holds something else.
    """
    if isinstance(value, Mapping):
        return value
    path = Path(value or DEFAULT_PATH).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"there is no file '{path}'; give the path of a JSON file, or the settings themselves as an object"
        ) from error
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"'{path}' is not a JSON object")
    return found


def problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Everything wrong with settings."""
    yield from _unknown(given, TOP | {"train_norm"}, "the settings")
    yield from _algorithm(given)
    if truth(given.get("train_norm")):
        yield "train_norm is not served: the norms of FLUX.1 have nothing to train; leave it out"
    preset = given.get("apply_preset") or {}
    if not isinstance(preset, Mapping):
        yield f"apply_preset must be an object, got {preset!r}"
        preset = {}
    yield from _unknown(preset, {*_PRESET, *_IGNORED}, "apply_preset")
    yield from _lists(preset)
    for name in MAPS:
        yield from _map(name, preset.get(name) or {}, is_plain=bool(preset.get("use_fnmatch")))
    for place in places(given):
        yield from _numbers(place)
        yield from _together(place)


def _lists(preset: Mapping[str, Any]) -> Iterator[str]:
    """Lists of names that are none, and patterns that cannot be read."""
    for name in ("target_module", "target_name", "exclude_name"):
        value = preset.get(name) or []
        if not isinstance(value, list | tuple):
            yield f"{name} must be a list of names, got {value!r}"
        elif odd := [one for one in value if not isinstance(one, str)]:
            yield f"{name} must be a list of names, and {odd[0]!r} is none"
        elif name != "target_module" and not preset.get("use_fnmatch"):
            yield from _patterns(name, value)


def _patterns(where: str, names: Iterable[Any]) -> Iterator[str]:
    for name in names:
        try:
            re.compile(str(name))
        except re.error as error:
            yield f"{where}: '{name}' is not a regular expression: {error}; or set use_fnmatch"


def _map(name: str, given: Any, *, is_plain: bool) -> Iterator[str]:
    """Settings of single kinds of layers; `is_plain` where names are no regular expressions."""
    if not isinstance(given, Mapping):
        yield f"{name} must be an object, got {given!r}"
        return
    if name == "name_algo_map" and not is_plain:
        yield from _patterns(name, given)
    for key, entry in given.items():
        where = f"{name} {key}"
        if not isinstance(entry, Mapping):
            yield f"{where} must be an object of settings, got {entry!r}"
            continue
        yield from (f"{where}: {what}" for what in _algorithm(entry))
        yield from (f"{where}: {one} holds for all layers; set it beside algo" for one in entry if one in OF_ALL)
        yield from _unknown({one: entry[one] for one in entry if one not in OF_ALL}, ENTRY, where)


def _unknown(given: Mapping[str, Any], known: Iterable[str], where: str) -> Iterator[str]:
    for name in given:
        if name not in known:
            yield f"{where} have no '{name}'; {did_you_mean(name, known)}they can have {', '.join(sorted(known))}"


def _algorithm(given: Mapping[str, Any]) -> Iterator[str]:
    name = given.get("algo") or "lora"
    text = ALGORITHMS.ours(name) or str(name)
    if text in ALGORITHMS.later:
        yield f"algo '{text}' is not served yet; {ALGORITHMS.later[text]}"
    elif text not in ALGORITHMS:
        yield f"there is no algo '{text}'; {did_you_mean(text, ALGORITHMS)}they are {', '.join(ALGORITHMS)}"


@dataclass(frozen=True)
class _Span:
    """Which numbers a setting may be."""

    lowest: float | None = None
    below: float | None = None
    is_whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return (
            is_number(value)
            and (self.lowest is None or value >= self.lowest)
            and (self.below is None or value < self.below)
            and (not self.is_whole or isinstance(value, int))
        )

    def __str__(self) -> str:
        ends = [f"at least {self.lowest:g}"] if self.lowest is not None else []
        ends += [f"below {self.below:g}"] if self.below is not None else []
        return f"a {'whole ' if self.is_whole else ''}number{' of ' if ends else ''}{' and '.join(ends)}"


_SPANS = {
    **dict.fromkeys(("linear_dim", "block_size"), _Span(1, is_whole=True)),
    **dict.fromkeys(("multiplier", "linear_alpha", "constraint", "conv_alpha"), _Span(0)),
    **dict.fromkeys(("dropout", "rank_dropout", "module_dropout"), _Span(0, 1)),
    "conv_dim": _Span(0, is_whole=True),
    "factor": _Span(is_whole=True),
}


def _numbers(place: Place) -> Iterator[str]:
    """Numbers that are none, or out of bounds."""
    names = {long: short for short, long in IN_MAPS.items()} if place.map else {}
    at = f"{place}: " if place.map else ""
    for name, value in place.own.items():
        if name in _SPANS and not _SPANS[name].holds(value):
            yield f"{at}{names.get(name, name)} must be {_SPANS[name]}, got {value!r}"
    if place.own.get("multiplier") == 0:
        yield "multiplier 0 switches the adapter off; leave it out"


def _together(place: Place) -> Iterator[str]:
    """Settings that an algorithm cannot have together."""
    at = f"{place}: " if place.map else ""
    size, block = place.whole.get("linear_dim", 4), place.whole.get("block_size", 4)
    is_sound = all(_SPANS[name].holds(one) for name, one in (("linear_dim", size), ("block_size", block)))
    if "dylora" in place.algorithms and is_sound and size % block:
        yield f"{at}linear_dim {size} is no multiple of block_size {block}, which dylora needs"
    has_lengths = any("dora_wd" in READ.get(name, ()) for name in place.algorithms)
    if has_lengths and place.whole.get("dora_wd") and place.whole.get("bypass_mode"):
        # The file would say that lengths were trained, and they were not.
        yield f"{at}dora_wd does not go together with bypass_mode, which leaves the weights alone; leave one out"


def not_whole(given: Mapping[str, Any]) -> str | None:
    """Why an adapter surely has layers that cannot start near zero, as LoKr with whole matrices can, if that is so."""
    top, *entries = places(given)
    if "lokr" not in {name for place in (top, *entries) for name in place.algorithms}:
        return "is for algo lokr, and lycoris_config has none; leave it out"
    other = next((one for one in entries if "lokr" not in one.algorithms), None)
    if other is not None:
        return f"is for algo lokr, and {other} has algo {other.chosen}; leave it out, or use lokr there too"
    return None


def whole(given: Mapping[str, Any]) -> dict[str, Any]:
    """All that settings say, also by leaving it out."""
    (top, *_) = places(given)
    usual = {**dict.fromkeys(OPTIONS, False), **_DEFAULTS}
    return {"algo": top.chosen, **usual, **top.own, "apply_preset": given.get("apply_preset") or {}}


def remarks(given: Mapping[str, Any], *, is_packed: bool) -> Iterator[str]:
    """What has no effect in settings that `problems` has found nothing wrong with, or not the one to be expected.

    Args:
        given: The settings.
        is_packed: Whether the weights of the base are packed.
    """
    found = list(places(given))
    for place in found:
        for name, value in place.own.items():
            if value != _DEFAULTS.get(name, False) and (why := _idle(name, place, found, is_packed)):
                short = {long: short for short, long in IN_MAPS.items()}.get(name, name) if place.map else name
                yield f"{short}{f' in {place}' if place.map else ''} has no effect: {why}"
    preset = given.get("apply_preset") or {}
    yield from (f"{name} in apply_preset has no effect: {_IGNORED[name]}" for name in preset if name in _IGNORED)
    yield from _besides(preset)
    share = found[0].own.get("multiplier", 1)
    if share != 1:
        yield f"multiplier {share:g} is not in the file of the adapter, which elsewhere needs a strength of {share:g}"


def _besides(preset: Mapping[str, Any]) -> Iterator[str]:
    """Layers that are trained although nobody named them, because only others were named."""
    kinds = {kind for place in places({"apply_preset": preset}) for kind in [place.key] if place.map == MAPS[0]}
    if preset and "target_module" not in preset and any(preset.get(name) for name in ("target_name", *MAPS)):
        others = [one for one in DEFAULT_TARGETS if not any(kind.endswith(one) for kind in kinds)]
        if others:
            yield (
                f"apply_preset has no target_module, so {', '.join(others)} is trained besides what it names; "
                f"set target_module to [] for nothing else"
            )


_DEFAULTS = {"multiplier": 1, "linear_dim": 4, "linear_alpha": 1, "factor": -1, "block_size": 4, "wd_on_output": True}
"""What a setting is when it is not given, where that is more than nothing."""


def _idle(name: str, place: Place, found: list[Place], is_packed: bool) -> str | None:
    """Why a setting does nothing for any layer for which it holds, if that is so."""
    users = [one for one in found if one is place or (not place.map and name not in one.own)]
    said = [idle(name, algorithm, one.whole, is_packed=is_packed) for one in users for algorithm in one.algorithms]
    return said[0] if all(said) else None
