"""What a LyCORIS JSON file says, checked without the package: algorithm, sizes, and which layers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simpletuner.schema import did_you_mean, words

DEFAULT_PATH = "config/lycoris_config.json"

ALGORITHMS = words(
    "LyCORIS algorithm",
    {
        "lora": "LoRA: two small matrices; the same as locon where there are no convolutions.",
        "locon": "LoRA for linear layers and convolutions.",
        "loha": "Two LoRAs multiplied number by number, of a higher rank for the same size.",
        "lokr": "A Kronecker product: very small files, or nearly full training with full_matrix.",
        "dylora": "A LoRA that can be cut to a lower rank afterwards.",
        "glora": "LoRA whose first matrix also works on the weights of the base.",
        "diag-oft": "Rotates blocks of the output (orthogonal fine-tuning), which keeps the angles between neurons.",
        "boft": "The same with rotations in the form of a butterfly.",
        "ia3": "One number for each input or output of a layer.",
    },
    later={"full": "use lokr with full_matrix", "tlora": "use lora"},
)

_WITHOUT_DROPOUT = frozenset({"dylora", "diag-oft", "boft", "ia3"})
"""Those that never leave out parts of what they add."""

DEFAULT_TARGETS = ("Attention",)
_PRESET = {"target_module", "target_name", "module_algo_map", "name_algo_map", "exclude_name", "use_fnmatch"}
_IGNORED = {"enable_conv", "lora_prefix", "unet_target_module", "unet_target_name"}
_SIZES = {"multiplier", "linear_dim", "linear_alpha"}
_OLD_NAMES = {"use_cp": "use_tucker", "use_conv_cp": "use_tucker", "constrain": "constraint"}
_SWITCHES = {
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
_NUMBERS = {
    "conv_dim": "conv_lora_dim",
    "conv_alpha": "conv_alpha",
    "dropout": "dropout",
    "rank_dropout": "rank_dropout",
    "module_dropout": "module_dropout",
    "factor": "factor",
    "block_size": "block_size",
    "constraint": "constraint",
}
_OPTIONS = {**_SWITCHES, **_NUMBERS}
"""Our names, which are those of the JSON, and the package's inside."""


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
        """Whether lengths of the weights are trained apart (DoRA)."""
        return bool(self.options.get("weight_decompose"))

    @staticmethod
    def read(given: Mapping[str, Any]) -> LycorisSettings:
        """Settings that `problems` has found nothing wrong with."""
        named = {_OLD_NAMES.get(name, name): value for name, value in given.items()}
        options = {_OPTIONS[name]: _plain(name, value) for name, value in named.items() if name in _OPTIONS}
        preset = {"target_module": list(DEFAULT_TARGETS), **(named.get("apply_preset") or {})}
        return LycorisSettings(
            algorithm=str(named.get("algo", "lora")).lower(),
            multiplier=float(named.get("multiplier", 1.0)),
            dim=int(named.get("linear_dim") or 4),
            alpha=float(named.get("linear_alpha", 1.0)),
            options=options,
            preset={name: value for name, value in preset.items() if name in _PRESET},
            given=dict(given),
        )


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
    known = {*_OPTIONS, *_SIZES, *_OLD_NAMES, "algo", "apply_preset"}
    yield from _unknown(given, known | {"train_norm"}, "the settings")
    yield from _algorithm(given.get("algo", "lora"))
    yield from _numbers(given)
    if _truth(given.get("train_norm")):
        yield "train_norm is not served: the norms of FLUX.1 have nothing to train; leave it out"
    preset = given.get("apply_preset") or {}
    if not isinstance(preset, Mapping):
        yield f"apply_preset must be an object, got {preset!r}"
        return
    yield from _unknown(preset, _PRESET | _IGNORED, "apply_preset")
    yield from _lists(preset)
    for name in ("module_algo_map", "name_algo_map"):
        yield from _map(name, preset.get(name) or {})


def _lists(preset: Mapping[str, Any]) -> Iterator[str]:
    """Lists of names that are none, and patterns that cannot be read."""
    for name in ("target_module", "target_name", "exclude_name"):
        value = preset.get(name) or []
        if not isinstance(value, list | tuple):
            yield f"{name} must be a list of names, got {value!r}"
        elif name != "target_module" and not preset.get("use_fnmatch"):
            yield from _patterns(name, value)


def _patterns(where: str, names: Iterable[Any]) -> Iterator[str]:
    for name in names:
        try:
            re.compile(str(name))
        except re.error as error:
            yield f"{where}: '{name}' is not a regular expression: {error}; or set use_fnmatch"


def _map(name: str, given: Any) -> Iterator[str]:
    """Settings of single kinds of layers."""
    if not isinstance(given, Mapping):
        yield f"{name} must be an object, got {given!r}"
        return
    for key, entry in given.items():
        if not isinstance(entry, Mapping):
            yield f"{name} {key} must be an object of settings, got {entry!r}"
            continue
        yield from _algorithm(entry.get("algo", "lora"))
        yield from _unknown(entry, {*_OPTIONS, "algo", "dim", "alpha"}, f"{name} {key}")
        yield from _plain_numbers(entry, f"{name} {key}: ")


def has_lokr(given: Mapping[str, Any]) -> bool:
    """Whether any layer is trained with LoKr."""
    preset = given.get("apply_preset") or {}
    maps = [preset.get(name) for name in ("module_algo_map", "name_algo_map")] if isinstance(preset, Mapping) else []
    entries = [entry for one in maps if isinstance(one, Mapping) for entry in one.values()]
    return any(str(one.get("algo")).lower() == "lokr" for one in (given, *entries) if isinstance(one, Mapping))


def _unknown(given: Mapping[str, Any], known: set[str], where: str) -> Iterator[str]:
    for name in given:
        if name not in known:
            yield f"{where} have no '{name}'; {did_you_mean(name, known)}they can have {', '.join(sorted(known))}"


def _algorithm(name: Any) -> Iterator[str]:
    text = str(name).lower()
    if text in ALGORITHMS.later:
        yield f"algo '{text}' is not served yet; {ALGORITHMS.later[text]}"
    elif text not in ALGORITHMS:
        yield f"there is no algo '{text}'; {did_you_mean(text, ALGORITHMS)}they are {', '.join(ALGORITHMS)}"


def _numbers(given: Mapping[str, Any]) -> Iterator[str]:
    for name, lowest in (("linear_dim", 1), ("multiplier", 0), ("linear_alpha", 0), ("block_size", 1)):
        value = given.get(name)
        if value is not None and not (_is_number(value) and float(value) >= lowest):
            yield f"{name} must be a number of at least {lowest}, got {value!r}"
    yield from _plain_numbers(given)
    if given.get("multiplier") == 0:
        yield "multiplier 0 switches the adapter off; leave it out"
    size, block = given.get("linear_dim", 4), given.get("block_size", 4)
    if given.get("algo") == "dylora" and _is_number(size) and _is_number(block) and float(size) % float(block):
        yield f"linear_dim {size} is no multiple of block_size {block}, which dylora needs"
    if given.get("algo") in _WITHOUT_DROPOUT and given.get("dropout"):
        yield f"dropout has no effect with algo {given['algo']}; leave it out"


def _plain_numbers(given: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for name in _NUMBERS:
        if given.get(name) is not None and name != "block_size" and not _is_number(given[name]):
            yield f"{where}{name} must be a number, got {given[name]!r}"


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and float(value) == float(value)
    except (TypeError, ValueError):
        return False


def _plain(name: str, value: Any) -> Any:
    """A switch or a number, also where it was written as text."""
    if name in _SWITCHES:
        return _truth(value)
    number = float(value or 0)
    return int(number) if number.is_integer() else number


def _truth(value: Any) -> bool:
    return value.strip().lower() in {"true", "1", "yes", "on"} if isinstance(value, str) else bool(value)
